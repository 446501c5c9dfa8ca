"""`python -m llava_mistral VERB …`, the same as the command `llava-mistral`."""

from llava_mistral.cli import main

if __name__ == "__main__":
    main()
