"""The frontier of a model: its quality at a number of file sizes, by each way to get there.

methods.py   how a method finds the recipe of a size
points.py    a measured recipe, as a file
measure.py   from a recipe to a measured export
run.py       all methods and sizes
words.py     the table and the findings
picture.py   bytes across, perplexity up
"""
