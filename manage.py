#!/usr/bin/env python
import os
import sys

from django.core.management import execute_from_command_line

from deploypipe.env import WrongValue

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "deploypipe.settings")
    try:
        execute_from_command_line(sys.argv)
    except WrongValue as error:
        sys.exit(str(error))
