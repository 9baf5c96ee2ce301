"""Short prompts as people write them, 24 words at most.

All are unfinished: after a full stop a model may rightly end at once, and an empty answer counts as a failure.
"""

from __future__ import annotations

PROMPTS: tuple[str, ...] = (
    "The statement is used to",
    "When a function is called, the arguments are",
    "In one sentence, a class is",
    "If the object has no such attribute, then",
    "A good summary of the meeting would be that",
    "Dear customer, we are sorry that your parcel is late, because",
    "The difference between a list and a tuple is that",
    "The value of the expression is",
    "Once upon a time, in a town by the sea,",
    "An exception is raised when",
    "To open a file and read its lines, one can",
    "The following example shows how",
    "The French word for morning is",
    "In the first step of the recipe, the flour is",
    "A module can define a function that",
    "Three things to check before a long journey are",
    "The default is to return",
    "The sky looks blue at noon and red in the evening because the",
    "The name is bound to the object in",
    "Give the engine a rest and then",
    "This method is called to implement",
    "From the sun outwards, the first planets are",
    "The loop ends as soon as",
    "It is an error if the same name is used twice in",
    "The story about the old lighthouse begins with",
    "The result of the comparison is",
    "My train was cancelled, so I would like to ask for",
    "Each item of the sequence is",
    "A generator is resumed where the",
    "The weather tomorrow will be",
    "To someone who has never seen a bicycle, one could say that it is",
    "For simple cases it is enough to",
)
