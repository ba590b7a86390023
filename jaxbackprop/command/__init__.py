"""The command line: `jaxbackprop train`, `predict`, `evaluate`, `trace`, `grade` and `check`.

    jaxbackprop train                                  # digits; breast_cancer, diabetes and wine are bundled too
    jaxbackprop train houses.csv --target price --hidden 128 128 --activation gelu --epochs 200 --out runs/houses
    jaxbackprop predict runs/houses new_houses.csv
    jaxbackprop evaluate runs/houses other_houses.csv  # where the answers are there
    jaxbackprop train --private --epsilon 3 --delta 1e-5 --max-norm 1
    jaxbackprop trace --x 1.5 --y 2 --weights 0.8 1.3 -0.7 0.45 --figure exercise.svg
    jaxbackprop grade derivation.md
    jaxbackprop check mine.py:loss mine.py:gradient    # a gradient of your own

Exit status 0 is success, 1 "checked, and wrong", 2 bad input, which gets one line and changes nothing on disk (compiled
programs apart), 3 "checked, and right where looked at", 75 another process of the run was lost.

`train` reads tables, NPZ and folders, says whether it sees classes or numbers, standardises from the training split alone, checks
the gradient, trains, and leaves `config.json`, `metrics.jsonl`, `params.npz` and `learning_curves.png` in the run's folder: `--out`,
or the next free number, which is taken by making the folder. A fifth of the rows is held out and only ever measured: nothing is
selected on it. Nothing is overwritten. GPU and TPU: `pip install '.[all,cuda]'` or `'.[all,tpu]'`; where steps are so small that a
CPU should be faster than a GPU, `train` says so first (`jaxbackprop.devices` has the rule), and `--device cpu` trains there.

A table (CSV with any separator, gzip too, or Parquet) may be as people have them. What becomes of each column is printed, a line
a column, and kept in `config.json` as plain JSON, by which `predict` and `evaluate` treat new rows:

| in the table | what is done | to say otherwise |
|---|---|---|
| labels, true/false, dates | an input for each category (at most 100), 0 or 1, days | `--categories`, `--numbers` |
| `$1,234.50`, `12,5`, `45%`, `18 kg`, `(34)` | numbers; a column that is nearly all numbers, or numbers beside a word, is refused with the value that is none, and its row | `--decimal`, `--na` |
| gaps: empty, `NA`, `?` among numbers | the training median, and an input that tells; among labels a category; a missing target is refused, `None` too | `--missing drop`, `--na`, `--categories` |
| codes such as 01067 | labels, which keep their zero | `--numbers` |
| `yes` beside `Yes.`, `<=50K.` beside `<=50K` | spaces are cut; in the target refused, in a feature two categories, and named | `--categories`, `--classes` |
| ids, row numbers, text that is different in most rows | left out, and named; `predict` writes ids beside its answers | `--numbers`, `--categories`; `--drop` leaves out more |
| no header, comments above it, `;`, tabs, decimal commas | found, and said | `--header`, `--separator`, `--decimal` |

A label that training did not see counts for none; a number that is missing where none was gets the training median; both are said.
Beside accuracy stand the most frequent class's share, balanced accuracy and the confusion matrix, beside an error R².

Nothing is lost: Ctrl-C and SIGTERM stop after the epoch, or in a long one within about two seconds, saved, and `jaxbackprop train
--resume runs/houses` goes on to the very same parameters, bit for bit, that an uninterrupted run gives; after a divergence at a
lower `--learning-rate`. Checkpoints (one a minute, `--checkpoint-every N` epochs besides) are replaced whole and forced to the
disk: a kill or a power cut costs what came after the last one. `jaxbackprop.training` says more.

`--private` clips every example's gradient and adds noise, and the report says the epsilon spent. Samples and noise come from the
operating system, not from `--seed`. Until training has ended their key lies in `checkpoints/SECRET-do-not-publish.key`, for
`--resume`; no other file, picture or message holds it. `--bounds FILE` (lines of `column,least,most`, `*` for all others) or
`--scale none`, and `--classes`, spare what is taken from the rows otherwise. `jaxbackprop.training.privacy` says what is not protected.

Compiled programs are kept in `~/.cache/jaxbackprop` (or `$XDG_CACHE_HOME/jaxbackprop`; 256 MB at most), so that a second run starts
sooner; `JAX_ENABLE_COMPILATION_CACHE=false` turns that off, `JAX_COMPILATION_CACHE_DIR` takes another folder.

What to read next. main, the whole; options, what a command is made of; a file a command. `train` has more: planning, what will be
done and what is refused; screen, what is said; fitting, what is done; stopping, how it ends otherwise; cache.
"""  # noqa: E501

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
