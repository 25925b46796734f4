"""Coverage-guided fuzzing of everything that reads bytes which we did not write.

`make fuzz` runs it by hand for as long as one likes, `make test` for some seconds.
"""
