"""The program that holds user code: standard library only, Python 3.10 to 3.13."""
