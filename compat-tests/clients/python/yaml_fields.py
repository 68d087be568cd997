"""NSINFO's text on standard input, read as YAML 1.1 as zos does; a line `field type value` for each."""

import sys

import yaml

for field, value in yaml.safe_load(sys.stdin.read()).items():
    print(field, type(value).__name__, value)
