"""Coverage-guided fuzzing of everything that reads bytes which we did not write.

`make prove` runs it for as long as VD_FUZZ_SECONDS says, `make test` for some seconds.
"""
