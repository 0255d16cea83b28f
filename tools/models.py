"""Fetch real models into the cache: `make models`.

python tools/models.py [smollm2] [minilm]
"""

import argparse
import sys

from memoir_edge.demo.models import MODELS, UnavailableError, path


def main() -> None:
    """Fetch the models that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="*", metavar="|".join(MODELS))
    given = parser.parse_args()
    if unknown := set(given.models) - MODELS.keys():
        parser.error(f"unknown model {min(unknown)!r}; known: {', '.join(MODELS)}")
    for name in given.models or MODELS:
        try:
            print(f"{name}: {path(name)}")
        except UnavailableError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
