"""`python -m layerstore` is the `layerstore` program."""

from layerstore.cli import main

if __name__ == "__main__":
    main()
