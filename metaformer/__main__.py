"""`python -m metaformer`, and what `deepspeed --module metaformer` starts on every rank."""

from metaformer.cli import main

if __name__ == "__main__":
    main()
