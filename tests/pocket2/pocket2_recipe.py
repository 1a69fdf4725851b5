"""The modules of recipes/pocket2, imported together so that they share their classes, then forgotten by bare name."""

from __future__ import annotations

import importlib

import by_path

with by_path.recipe("world", "pocket2") as world:
    compound = importlib.import_module("compound")
    detector = importlib.import_module("detector")
    export = importlib.import_module("export")
    hard = importlib.import_module("hard")
    judge = importlib.import_module("judge")
    kinds = importlib.import_module("kinds")
    parse = importlib.import_module("parse")
    preference = importlib.import_module("preference")
    rules = importlib.import_module("rules")
    scenes = importlib.import_module("scenes")
