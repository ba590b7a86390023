"""Real data in: a bundled set, or a table in a file or a folder, made ready to train on and to predict from.

    data = load("flowers.csv")                    # or load("digits"), load("house.parquet", target="price"), load("folder")
    data.note                                     # "classification, 3 classes (target 'species', the last ..."
    data.table                                    # what was done with each column, a line each
    data.train, data.test                         # x (n, d) float32 standardised; y (n,) int32 or (n, 1) float32
    x = read_features("new.csv", data.encoding)   # (m, d), treated exactly as the training data was
    decode(data.encoding, yhat)                   # class labels, or values in the target's own units

Tables as people have them (sheets.py, values.py, tables.py): separators, decimal marks, missing headers and comments are found
and said; numbers may bear `$`, `%` and marks for thousands; dates become days; labels an input for each category; gaps among
numbers the training median, and an input that tells. Ids, row numbers and free text are left out, and named. A `Treatment`
says otherwise. A value that cannot be used is an error of one line, which names its column and its row. Rows are counted from 1
after the header, blank lines left out.

Means, scales, medians and categories come from the training split alone, so nothing of the test split leaks into them; or the
scales are given, as `bounds` of each column, so that nothing of any row does. They are computed, and applied, in float64; only
the standardised result is rounded to float32, so that a large integer (a Unix time, say) keeps its differences. All of it is an
`Encoding`: plain numbers and text, kept as JSON.

A folder is read as it is needed, as `Blocks` (blocks.py, formats.py, reading.py, stored.py): data larger than memory.
"""

from jaxbackprop.data.encoding import SCALES, Bounds, Column, Encoding, decode, from_dict, to_dict
from jaxbackprop.data.loading import Dataset, load, read_examples, read_features
from jaxbackprop.data.sheets import Form
from jaxbackprop.data.sources import BUNDLED, read_bounds
from jaxbackprop.data.tables import Treatment

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
    "from_dict",
    "load",
    "read_bounds",
    "read_examples",
    "read_features",
    "to_dict",
]
