"""Fuzz targets: readers of files that come from strangers, fed with damaged files for as long as one likes."""
