r"""Real data in: a bundled set, or a table in a file or a folder, made ready to train on and to predict from.

What it is for. `load(source)` takes tables as people have them (CSV and its kin, Parquet, NPZ; a folder of any size) and
returns arrays that a network takes: split, standardised, with what was done to each column said and kept. `read_features`
does the same to new rows, and `decode` turns the network's outputs back into labels, or into the target's own units.

The mathematics. Of each column of numbers, with mean μ and deviation σ of the TRAINING rows,

    x ← (x − μ) / σ            a gap becomes the training median, and one more input that is 1 where there was a gap
    a label ← one input for each category, 1 or 0             a category that training never saw: 0 for all of them
    a target of numbers ← (y − μ) / σ;  predictions ← yhat σ + μ;          of classes: an index into `encoding.classes`

Everything is computed in float64 and rounded to float32 once. Nothing of the test rows enters μ, σ, medians or categories;
where no row may enter at all, as in private training, the scales are given: `scale="none"`, or bounds of each column, and
`classes`.

>>> import tempfile
>>> from pathlib import Path
>>> from jaxbackprop import data
>>> rows = "".join(f"{1000 + 10 * i};{('red', 'blue')[i % 2]};{i / 4:.2f}\n".replace(".", ",") for i in range(40))
>>> folder = tempfile.TemporaryDirectory()
>>> path = Path(folder.name, "houses.csv")
>>> _ = path.write_text("area;colour;price\n" + rows)              # as a spreadsheet writes it: semicolons, decimal commas
>>> houses = data.load(path, target="price")
>>> houses.x_train.shape, houses.y_train.shape                     # area, and two categories
((32, 3), (32, 1))
>>> _ = path.write_text("area;colour\n1100;blue\n1110;green\n")    # new rows; green was never seen
>>> import warnings
>>> with warnings.catch_warnings(record=True) as said:
...     warnings.simplefilter("always")
...     new = data.read_features(path, houses.encoding)
>>> new.shape, new[1, 1:].tolist()
((2, 3), [0.0, 0.0])
>>> len(said)                                                      # which is said, once
1
>>> folder.cleanup()

What it says. `print("\n".join(houses.table))` is a line for each column: numbers, labels, dates, left out, and why.
`houses.note` says what the target was taken for. What cannot be used is an error of one line that names its column, its row
and the value: a price among 10,000 that reads "?" is a fault, and never the 41st class. Where what was found is wrong, a
`Treatment` overrules it: `load(path, treatment=Treatment(drop=("id",), missing="drop"))`. An `Encoding` is plain numbers
and text, kept as JSON; no pickle.

Larger than memory. A folder is read as it is needed, as `Blocks`; `fit` and `evaluate` take them as they take arrays. Its
rows are shuffled over a window in memory, a few batches ahead, and from a key and a number of batches any process reads on
with the very batches that it would have made.

What to read next. `help(jaxbackprop.data.load)`, `help(jaxbackprop.data.Treatment)`; sheets, values and tables, how a table
is understood; targets and encoding; loading; then blocks, formats, reading and stored, for data larger than memory. What
takes them: `jaxbackprop.training`.
"""

from jaxbackprop.data.blocks import examples_of
from jaxbackprop.data.encoding import SCALES, Bounds, Column, Encoding, decode, from_dict, to_dict
from jaxbackprop.data.figures import figures_of, lines_of
from jaxbackprop.data.loading import Dataset, load, place_of, read_examples, read_features, read_ids
from jaxbackprop.data.sheets import Form, Treatment
from jaxbackprop.data.sources import BUNDLED, read_bounds

__all__ = [
    "BUNDLED",
    "SCALES",
    "Bounds",
    "Column",
    "Dataset",
    "Encoding",
    "Form",
    "Treatment",
    "decode",
    "examples_of",
    "figures_of",
    "from_dict",
    "lines_of",
    "load",
    "place_of",
    "read_bounds",
    "read_examples",
    "read_features",
    "read_ids",
    "to_dict",
]
