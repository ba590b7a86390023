"""Does any input break the file readers or `grade`? Coverage-guided, one child process a target.

    python experiments/fuzz.py [--quick] [--seconds N] [--out FOLDER]      (pip install atheris)

Every input must give a sane result, or raise ValueError, FileNotFoundError or ImportError with a message of one line and
at most a thousand characters, in bounded time and without a warning. Anything else is a failure: the table counts it,
its input goes to the folder that the last line names, and the exit status is 1. NPZ and Parquet get a tenth of the time:
most of what happens to their bytes is NumPy's and Arrow's affair, which the fuzzer cannot see into.

libFuzzer ends its process, so a child leaves its counts in a small file as it goes, and the parent reads them.
"""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rivals

os.environ.setdefault("JAX_PLATFORMS", "cpu")

BOUND = {"csv": 5.0, "npz": 5.0, "parquet": 5.0, "grade": 15.0}  # seconds of processor time for one input
LONGEST = {"csv": 65_536, "npz": 8_192, "parquet": 16_384, "grade": 2_048}  # bytes
SHARE = {"csv": 1.0, "npz": 0.1, "parquet": 0.1, "grade": 1.0}  # of --seconds
HANG, MEMORY = 120, 4_096  # seconds and MB after which libFuzzer ends a child: a failure
ACCEPTABLE = (ValueError, FileNotFoundError, ImportError)
NOTES = Path(__file__).parents[1] / "tests" / "data" / "exercise_notes.md"


# --- what must hold --------------------------------------------------------------------------------------------------


def require(holds: object, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def check_dataset(data, file: Path) -> None:
    """Finite, standardised, of the shapes that the docstring says; and `read_features` treats the file as `load` did."""
    from jaxbackprop.data import decode, from_dict, read_features, to_dict

    e, d = data.encoding, len(data.encoding.features)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        require(len(x) and x.shape == (len(y), d) and x.dtype == np.float32, f"x is {x.shape} {x.dtype}")
        require(y.ndim == (1 if e.classes else 2) and y.dtype == (np.int32 if e.classes else np.float32), "y's kind")
        require(np.isfinite(x).all() and np.isfinite(y).all(), "not finite")
        if e.classes:
            require(y.min() >= 0 and y.max() < len(e.classes), "labels out of range")
    require(len(e.mean) == len(e.scale) == d and np.isfinite(e.mean).all(), "means and scales")
    require(np.isfinite(e.scale).all() and min(e.scale) > 0, "scales that are not positive")
    require(len(set(e.classes)) == len(e.classes), "one class twice")
    require(len(data.note.splitlines()) == 1, "a note of several lines")
    require(from_dict(json.loads(json.dumps(to_dict(e), allow_nan=False))) == e, "the encoding does not survive JSON")
    outputs = np.eye(len(e.classes), dtype=np.float32) if e.classes else data.y_test
    require(len(decode(e, outputs)) == len(outputs), "decode")
    both = np.concatenate([data.x_train, data.x_test])
    with warnings.catch_warnings():  # a label that is in the test split alone is said
        warnings.simplefilter("ignore", UserWarning)
        again = read_features(file, e)
    require(again.shape == both.shape, f"{again.shape} read again, {both.shape} before")
    require((np.sort(again, axis=0) == np.sort(both, axis=0)).all(), "read again, the values differ")


def check_verdict(verdict, text: str) -> None:
    """As many lines as it says, each with a known status, on a row of the text; it prints and serialises."""
    from jaxbackprop.grading.report import MARKS

    lines, printed, whole = verdict.lines, str(verdict).split("\n"), verdict.to_dict()
    require(lines, "no lines")
    require({line.status for line in lines} <= set(MARKS), "an unknown status")
    require(verdict.summary.startswith(f"{len(lines)} equation"), "the summary's count")
    require(sum(whole["counts"].values()) == len(lines) == len(whole["lines"]), "the counts")
    require(sum(row[0] in MARKS.values() for row in printed) == len(lines), "lines printed")
    require(all(1 <= line.row <= text.count("\n") + 1 for line in lines), "a row outside the text")
    require(all(bool(line.slip) == (line.status == "wrong") for line in lines), "slips")
    require(0 <= verdict.score <= 1, "the score")
    json.dumps(whole, allow_nan=False)


# --- one input -------------------------------------------------------------------------------------------------------


def in_file(suffix: str, folder: Path) -> Callable[[bytes], None]:
    """Read what a file of these bytes holds; the first byte chooses the options."""
    from jaxbackprop.data import Encoding, load, read_features

    file = folder / f"fuzzed{suffix}"
    tasks = (None, None, "classification", "regression")
    other = Encoding("classification", ("a", "b"), (0.0, 1.0), (1.0, 2.0), "c", ("no", "yes"))

    def run(content: bytes) -> None:
        choice, content = (content[0] if content else 0), content[1:]
        file.write_bytes(zipped(content) if suffix == ".npz" and choice & 16 else content)
        if choice & 8:
            x = read_features(file, other)
            require(x.ndim == 2 and x.shape[1] == 2 and abs(x).max() < float("inf"), "read_features")
        else:
            check_dataset(load(file, "a" if choice & 4 else None, tasks[choice & 3]), file)

    return run


def zipped(content: bytes) -> bytes:
    """An archive with sound checksums whose arrays have these bytes, so that NumPy reads on past the checksums."""
    x, _, y = content.partition(b"|||")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("x.npy", x)
        members.writestr("y.npy", y)
    return archive.getvalue()


def in_text(_: str, __: Path) -> Callable[[bytes], None]:
    """Grade these bytes as text; the first byte chooses the network."""
    import jaxbackprop as jbp

    networks = (None, None, None, None, None, None, jbp.skip_mlp((1, 1, 1, 1)), jbp.mlp((2, 3, 4, 1), bias=True))

    def run(content: bytes) -> None:
        text = content[1:].decode("utf-8", "surrogateescape")
        check_verdict(jbp.grade(text, networks[content[0] % 8 if content else 0]), text)

    return run


TARGETS = {"csv": in_file, "npz": in_file, "parquet": in_file, "grade": in_text}


class Tally:
    """Runs inputs and counts what comes of them; `save` leaves the counts in a file."""

    def __init__(self, target: str, folder: Path):
        self.run, self.bound = TARGETS[target](f".{target}", folder), BOUND[target]
        self.report, self.inputs = folder / "report.json", folder / "failures"
        self.inputs.mkdir(exist_ok=True)
        self.counts = {"inputs": 0, "accepted": 0, "refused": 0, "slowest_s": 0.0}
        self.kinds, self.failures = set(), {}
        self.began = self.saved = time.monotonic()

    def one(self, content: bytes) -> None:
        """Count one input; never raises, so that the fuzzer goes on to the next mistake."""
        began, why = time.process_time(), None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.run(content)
            self.counts["accepted"] += 1
        except ACCEPTABLE as error:
            message = str(error)
            self.counts["refused"] += 1
            self.kinds.add(kind_of(message))
            if not message or len(message.splitlines()) != 1 or len(message) > 1_000:
                why = f"a message of {len(message)} characters, {len(message.splitlines())} lines: {message[:100]!r}"
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__}: {str(error)[:200]} ({Path(frame.filename).name}:{frame.lineno})"
        seconds = time.process_time() - began
        if seconds > self.bound:
            why = f"{seconds:.1f} s, at most {self.bound:.0f} expected"
        self.counts["inputs"] += 1
        self.counts["slowest_s"] = max(self.counts["slowest_s"], seconds)
        if why and kind_of(why) not in self.failures:
            self.failures[kind_of(why)] = why
            (self.inputs / f"{len(self.failures)}.bin").write_bytes(content)
        if why or time.monotonic() - self.saved > 1:
            self.save()

    def save(self) -> None:
        """Leave the counts so far, whole at any moment."""
        self.saved = time.monotonic()
        seconds = round(self.saved - self.began, 1)
        found = {"seconds": seconds, "message_kinds": len(self.kinds), "failures": len(self.failures)}
        measure.replace(self.report, json.dumps(self.counts | found | {"why": list(self.failures.values())}))


def kind_of(message: str) -> str:
    """A message without what it quotes and without its numbers."""
    bare = re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "'…'", message)
    return re.sub(r"[-+\d.,e]*\d", "N", bare)[:45]


# --- where mutation begins -------------------------------------------------------------------------------------------

CSV = {
    "plain": "a,b,c\n" + "".join(f"{i},{i % 3}.5,{'no' if i % 2 else 'yes'}\n" for i in range(10)),
    "numbers": "a,b\n" + "".join(f"{i},{i * i / 7}\n" for i in range(8)),
    "labels": "a,b,c\n" + "".join(f"{i},{-i},{i % 2}\n" for i in range(12)),
    "mark": "\ufeffa,b,c\r\n" + "1,2,x\r\n3,4,y\r\n" * 4,
    "quoted": 'a,"b, ""c""","λ\n2"\n' + '1,"2","x\ny"\n3,"4","z"\n' * 4,
    "ragged": "a,b,c\n1,2,x\n1,2\n1,2,x,4\n",
    "missing": "a,b,c\n1,,x\nNA,2,y\n3,nan,\nnull,4,x\n5,6,y\n",
    "infinite": "a,b\n1,inf\n2,-inf\n3,1e39\n4,1e400\n5,-0\n6,1e-320\n",
    "many": ",".join(f"c{i}" for i in range(300)) + "\n" + (",".join(["1"] * 300) + "\n") * 6,
    "unicode": "größe,данные,c\n" + "1,٣,é\n2,4,\u2028\n" * 4,
    "nul": "a,b\0,c\n1\0,2,x\n3,4,y\0\n" * 3,
    "header": "a,b,c\n",
    "nothing": "",
    "twice": "a,b,a\n1,2,3\n",
    "dates": "a,b,c\n" + "2020-01-01,10:30,2020-01-01 10:30:00\n" * 6,
    "true": "a,b,c\n" + "1,true,false\n2,false,true\n" * 5,
    "semicolons": "a;b\n" + "1;x\n2;y\n" * 5,
    "pandas": ",a,b\n" + "".join(f"{i},{i},{i % 2}\n" for i in range(12)),
    "open": 'a,b\n1,2\n3,"4\n5,6\n',
    "large": "a,b,c\n" + "9223372036854775808,1_0,x\n-1,0x10,y\n" * 4,
}
DERIVATIONS = (
    "z0 = w0 x; h0 = g(z0); z1 = w1 h0; h1 = g(z1); z2 = w2 h1 + w3 h0; yhat = z2",
    "dL/dz1 = dL/dh1 * [z1 >= 0]; dL/dh0 = dL/dz1 * w1",
    "dL/dh0 = dL/dz1 * w1 + dL/dz2 * w3 = dL/dz1 dz1/dh0 + dL/dz2 dz2/dh0",
    "∂L/∂h₁ = ∂L/∂ŷ · w₂\n∂L/∂z₁ = ∂L/∂h₁ · g′(z₁)\n∂L/∂w₁ = ∂L/∂z₁ · h₀",
    "h0 = {0, z0 < 0; z0, otherwise}\nL = 1/2 (yhat - y)^2\ndL/dyhat = yhat - y",
    "dL/dW1 = dL/dz1 @ h0^T\ndL/dh0 = W1^T @ dL/dz1 ⊙ g'(z1)\nz1 = W1 h0 + b1",
    "z1 = W x + b; a1 = sigmoid(z1); yhat = v^T a1; dL/dW = dL/dz1 ⊗ x; δ1 = dL/da1 * a1 * (1 - a1)",
    "dL/dz0 = maximum(0, sign(z0)) * dL/dh0 if z0 != 0 else 0; m = where(z0 > 0, 1, 0)",
    "$$\\frac{\\partial L}{\\partial z_1} = \\frac{\\partial L}{\\partial h_1} \\cdot \\mathbb{1}_{z_1 \\geq 0}$$",
    "\\begin{align} h_0 &= \\begin{cases} 0 & z_0 < 0 \\\\ z_0 & \\text{otherwise} \\end{cases} \\\\ z_2 &= w_2 h_1 + w_3 h_0 "
    "\\end{align}",
    "Because of $z_2 = w_2 h_1$, \\( \\frac{\\partial z_2}{\\partial h_1} = w_2 \\Rightarrow \\frac{dL}{dh_1} = w_2 \\)",
    "$\\delta^{[1]} = W^{[2]T} \\delta^{[2]} \\odot \\sigma'(z^{[1]})$, $\\nabla_{W} L = \\delta^{(1)} x^{\\top}$",
    "f(z) = exp(z) / (1 + exp(-z))^2; h0 = f(z0); dL/dz0 = f'(z0) dL/dh0 -> dL/dz0",
    "1. dL/dz2 = 1\n   = dL/dyhat  # given\n- ‖yhat - y‖² = L",
)
WORDS = {
    "csv": """a b c , ,, " "" ' \\ ; é NA nan inf -inf 1e39 1e400 1e-320 0.5 -1 1_0 null true false 2020-01-01 10:30""",
    "npz": "NUMPY <f8 <U3 >i8 |O |b1 |V0 |S0 <f2 <c16 <M8[s] ( ||| (-1,) (6,2) (99999999999999,9) [('a','<i4')] True",
    "parquet": "PAR1 ARROW:schema pandas",
    "grade": "dL/dz1 ∂L/∂h_0 dz2/dh0 w_1 h0 yhat g'(z0) [z1>=0] ∂( )/∂w1 L x y δ ² 0 2 1e308 '' ^T ^ @ ⊙ ⊗ * / + - ( ) { }"
    " = => -> < & ; , $ $$ exp( log( sum( step( diag( where( max(0, transpose( outer( if and else otherwise because"
    r" \frac{ }{ \partial \\ \begin{cases} \end{cases} \text{ \left( \hat{y}",
}
SPACES = [" ", "\n", "\r\n", "\r", "\0", "\ufeff", "\u2028"]
TOKENS = {target: [*words.split(), *SPACES] for target, words in WORDS.items()}


def seeds(target: str) -> list[bytes]:
    """A few whole inputs: the options' byte, then the content."""
    if target == "csv":
        return [bytes([option]) + text.encode() for text in CSV.values() for option in (0, 4, 8)]
    if target == "grade":
        notes = NOTES.read_text()
        texts = [*DERIVATIONS, *re.split(r"\n\s*\n", notes)]
        return [bytes([option]) + text.encode() for text in texts for option in (0, 7)]
    return npz_seeds() if target == "npz" else parquet_seeds()


def npz_seeds() -> list[bytes]:
    def npy(array) -> bytes:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        return file.getvalue()

    found, x = [], np.arange(24.0).reshape(12, 2)
    targets = (np.arange(12) % 2, np.linspace(0, 1, 12), np.array(["no", "yes"] * 6), np.array([{}] * 12, dtype=object))
    for y in (*targets, np.arange(12)[:, None], np.array([True, False] * 6)):
        found += [
            bytes([16 + option]) + npy(x.astype(kind)) + b"|||" + npy(y) for option in (0, 8) for kind in ("f8", "i1")
        ]
        file = io.BytesIO()
        np.savez(file, x=x, y=y)
        found.append(b"\0" + file.getvalue())
    return found


def parquet_seeds() -> list[bytes]:
    found = []
    columns = {"a": list(range(12)), "b": [i / 2 for i in range(12)], "c": ["no", "yes"] * 6}
    for compression in ("none", "snappy"):
        for last in (
            columns["c"],
            pa.array(columns["c"]).dictionary_encode(),
            [True, False] * 6,
            [[1]] * 12,
            [None, 1] * 6,
        ):
            file = io.BytesIO()
            pq.write_table(pa.table(columns | {"c": last}), file, compression=compression)
            found += [bytes([option]) + file.getvalue() for option in (0, 8)]
    return found


PIECES = {"csv": rb"[,\n]|[^,\n]+", "grade": rb"\\?[A-Za-z]+|\d+|\s+|[^A-Za-z\d\s]"}


def rearranged(target: str, content: bytes, seed: int) -> bytes:
    """Cells or symbols replaced, left out, repeated: what a byte changed at random seldom leaves readable."""
    rng = random.Random(seed)
    pieces = re.findall(PIECES[target], content[1:])
    cells = [at for at, piece in enumerate(pieces) if piece not in b",\n"]
    for _ in range(rng.randint(1, 4)):
        new = rng.choice(pieces) if pieces and rng.random() < 0.5 else rng.choice(TOKENS[target]).encode()
        if cells and rng.random() < 0.7:
            pieces[rng.choice(cells)] = new
        else:
            at = rng.randrange(len(pieces) + 1)
            pieces[at : at + rng.randint(0, 1)] = [new] * rng.choice((0, 1, 1, 2, 9))
            break
    return bytes([content[0] if content and rng.random() < 0.9 else rng.randrange(32)]) + b"".join(pieces)


# --- the child and its parent ----------------------------------------------------------------------------------------


def fuzz(target: str, seconds: float, where: str) -> None:
    """The child: run libFuzzer, which ends this process."""
    folder = Path(where)
    import atheris  # pyright: ignore[reportMissingModuleSource, reportMissingImports]

    instrumented = atheris.instrument_imports(include=["jaxbackprop"])  # pyright: ignore[reportAttributeAccessIssue]
    with instrumented:
        import jaxbackprop.data
        import jaxbackprop.grading.judge  # noqa: F401
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir()
    for number, content in enumerate(seeds(target)):
        (corpus / f"seed{number}").write_bytes(content)
    escaped = ["".join(f"\\x{byte:02x}" for byte in token.encode()) for token in TOKENS[target]]
    words.write_text("".join(f'"{token}"\n' for token in escaped))
    tally = Tally(target, folder)
    limits = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={LONGEST[target]}"]
    limits += [f"-timeout={HANG}", f"-rss_limit_mb={MEMORY}"]
    files = [f"-artifact_prefix={folder}/failures/", f"-dict={words}", str(corpus)]

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        return atheris.Mutate(content, most) if seed % 2 else rearranged(target, content, seed)[:most]

    own = {"custom_mutator": mutate} if target in PIECES else {}
    atheris.Setup([sys.argv[0], "-seed=1", *limits, *files], tally.one, **own)
    atheris.Fuzz()


def run_child(target: str, seconds: float, folder: Path) -> dict:
    """One target's counts, and libFuzzer's own."""
    folder.mkdir(parents=True)
    child = measure.in_process(fuzz, target, seconds, str(folder), stderr=subprocess.PIPE)
    log = child.communicate()[1]
    report = folder / "report.json"
    row: dict[str, Any] = {"target": target}
    row |= json.loads(report.read_text()) if report.exists() else {"failures": 0, "why": []}
    edges = re.findall(r"\bcov: (\d+)", log)
    row["edges"] = int(edges[-1]) if edges else None
    if child.returncode:
        row["failures"] += 1
        row["why"].append(f"it ended with status {child.returncode}: {' | '.join(log.splitlines()[-5:])[-500:]}")
    return row


def main() -> None:
    parser = measure.Parser(__doc__, "ten seconds a target")
    parser.add_argument(
        "--seconds", type=measure.positive, help="for each target (NPZ and Parquet: a tenth); default 600"
    )
    given = parser.given()
    if rivals.missing("atheris"):
        raise SystemExit(2)
    whole = given.seconds or (10 if given.quick else 600)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    rows = [run_child(target, whole * SHARE[target], folder / target) for target in measure.followed(TARGETS)]
    measure.show("what came of the inputs", rows, [column for column in rows[0] if column != "why"])
    for row in rows:
        for why in row["why"]:
            print(f"{row['target']}: {why}")
    measure.publish(given, "fuzz", rows, bounds_s=BOUND, longest_bytes=LONGEST)
    if sum(row["failures"] for row in rows):
        print(f"the inputs that failed: {folder}/*/failures")
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
