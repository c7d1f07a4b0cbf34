"""The whole report: a page that needs nothing else, not even scripts.

What it shows is text of others (labels, names, texts), so nothing goes in unescaped, and a Content-Security-Policy
forbids every request and every script but the one below.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from stream_classifier.model.decision import Decider
from training.comparison import macro_f1_interval
from training.evaluation import Evaluation
from training.intervals import Interval
from training.measured import DataSummary
from training.report.markup import Markup, join, plain, prose, share, tag
from training.report.plots import Plot, measured_plots, training_plots
from training.report.source import ReportSource
from training.report.tables import (
    MAX_MATRIX_LABELS,
    confusion_table,
    epoch_table,
    label_table,
    mistakes_table,
    pairs_table,
    table,
)

__all__ = ["REPORT_NAME", "render"]

REPORT_NAME = "report.html"
_MAX_NAMED = 20
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'"
_SCOPE_SCORES = {"max_prob": "best probability", "energy": "energy score"}
_METRIC_NAMES = {"macro_f1": "macro-F1"}


def render(source: ReportSource) -> str:
    """The page of a model directory."""
    sections = [
        ("opinion", "Second opinion", _opinion(source)),
        ("data", "Data", _data(source)),
        ("training", "Training", _training(source)),
        ("labels", "Labels", _labels(source)),
        ("confusions", "Confusions", _confusions(source)),
        ("confidence", "Confidence", _confidence(source)),
        ("mistakes", "Texts it gets wrong", _mistakes(source)),
        ("recipe", "Recipe", _recipe(source)),
    ]
    present = [(name, title, body) for name, title, body in sections if body]
    title = plain(source.name)
    return "<!DOCTYPE html>\n" + tag(
        "html",
        _head(title),
        tag(
            "body",
            tag("header", tag("h1", tag("bdi", title)), tag("p", _summary(source))),
            tag("nav", *(tag("a", name, href=f"#{anchor}") for anchor, name, _ in present), aria_label="Sections"),
            tag(
                "main",
                _headline(source),
                *(
                    tag("section", tag("h2", name, id=f"{anchor}-title"), body, id=anchor,
                        aria_labelledby=f"{anchor}-title")
                    for anchor, name, body in present
                ),
            ),
            tag("script", Markup(_resource("report.js"))),
        ),
        lang="en",
    )  # fmt: skip


def _head(title: str) -> Markup:
    script = base64.b64encode(hashlib.sha256(_resource("report.js").encode()).digest()).decode()
    policy = f"{_POLICY}; script-src 'sha256-{script}'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title}: report"),
        tag("style", Markup(_resource("report.css"))),
    )


def _summary(source: ReportSource) -> Markup:
    manifest, labels = source.model.manifest, source.model.labels
    kind = "Several labels a text, of" if source.model.problem_type.startswith("multi") else "One label a text, of"
    named = ", ".join(plain(label, width=40) for label in labels[:_MAX_NAMED])
    if len(labels) > _MAX_NAMED:
        named += f" and {len(labels) - _MAX_NAMED} more"
    task = "" if manifest is None or manifest.task == "free" else f"Task {manifest.task}. "
    base = f" Trained from {source.training['base']}." if "base" in source.training else ""
    return join(f"{task}{kind} {len(labels)}: {named}.{base}")


def _headline(source: ReportSource) -> Markup:
    e, measured = source.evaluation, source.measured
    if e is None or measured is None:
        fix = tag("code", f"stream-training report {source.name} DATA")
        return tag("p", join("This model was not measured: ", fix, " does, on labelled rows."))
    f1 = macro_f1_interval(e.answers.true_NL, e.answers.predicted_NL)
    cards = [
        _card("just the right labels" if e.multi_label else "accuracy", share(e.accuracy), _ends(e.accuracy_interval)),
        _card("macro-F1", share(e.macro_f1), _ends(f1)),
    ]
    if e.multi_label is not None:
        m = e.multi_label
        cards.append(_card("micro-F1", share(m.micro_f1), f"mean average precision {share(m.mean_average_precision)}"))
    cards += [
        _card("calibration error", share(e.ece), f"chance alone: up to {share(e.ece_noise_95)}"),
        _card("negative log-likelihood", f"{e.nll:.3f}", f"Brier score {e.brier:.3f}"),
    ]
    if e.out_of_scope is not None:
        o = e.out_of_scope
        found = f"{_ends(o.recall_interval)}; of {o.n} rows with {plain(o.label, width=40)}"
        cards.append(_card("out of scope, found", share(o.recall), found))
    if e.coverage < 1:
        cards.append(_card("accepted", share(e.coverage), f"of these right {share(e.precision_at_threshold)}"))
    if e.baseline is not None:
        b = e.baseline
        low, high = b.accuracy.interval
        side = "ahead" if b.accuracy.difference >= 0 else "behind"
        gap = f"{100 * abs(b.accuracy.difference):.1f} points {side} of it ({100 * low:+.1f} to {100 * high:+.1f})"
        cards.append(_card("tf-idf + linear SVM, accuracy", share(b.accuracy.second), f"this model is {gap}"))
    rows = measured.measured_on
    note = f"Measured on {e.n:,} {rows} rows; intervals are of 95 %."
    if rows == "validation":
        note += " These rows also chose the epoch, so new texts may do worse."
    return join(tag("div", *cards, class_="cards"), tag("p", prose(note), class_="soft"))


def _card(name: str, value: str, note: str) -> Markup:
    return tag("div", tag("span", name), tag("b", value), tag("span", prose(note)), class_="card")


def _ends(ends: Interval) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def _opinion(source: ReportSource) -> Markup | None:
    if source.evaluation is None:
        return None
    if not source.remarks:
        return tag("p", "Nothing stands out.")
    remarks = [_remark(r.severity, r.message, r.fix, kind=r.severity) for r in source.remarks]
    return tag("ul", *remarks, class_="remarks")


def _remark(severity: str, message: str, fix: str, *, kind: str) -> Markup:
    said = join(tag("span", f"{kind}: ", class_="kind"), prose(f"{message}."))
    return tag("li", said, tag("span", prose(f"{_sentence(fix)}."), class_="fix"), class_=severity)


def _sentence(text: str) -> str:
    """It begins with a capital, unless that would misspell a command."""
    return text if text.startswith("stream-") else f"{text[:1].upper()}{text[1:]}"


def _data(source: ReportSource) -> Markup | None:
    data = DataSummary() if source.measured is None else source.measured.data
    if not data.parts:
        return None
    head = [(name, "number") for name in ("rows", "number", "left out", "labels", "largest", "smallest")]
    rows = []
    for name, part in data.parts.items():
        ordered = sorted(part.labels.items(), key=lambda item: -item[1])
        (most, largest), (least, smallest) = ordered[0], ordered[-1]
        cells = [f"{part.n:,}", f"{part.num_skipped:,}", str(len(part.labels)),
                 f"{plain(most, width=24)} {share(largest / part.n, 0)}",
                 f"{plain(least, width=24)} {share(smallest / part.n, 1)}"]  # fmt: skip
        rows.append([tag("th", name, scope="row"), *(tag("td", cell) for cell in cells)])
    found = [
        _remark(f["severity"], f["message"], f["fix"], kind=f"{f['severity']}, {f['part']} rows") for f in data.findings
    ]
    findings = join(tag("h3", "What the data check found"), tag("ul", *found, class_="remarks")) if found else None
    return join(table(head, rows, name="Rows"), _lengths(data.tokens), findings)


def _lengths(tokens: Mapping[str, Any]) -> Markup | None:
    if not tokens:
        return None
    text = (
        f"Training texts have {tokens['median']} tokens in the middle, 95 % up to {tokens['p95']}, the longest "
        f"{tokens['max']}; {tokens['max_length']} are read, which cuts {share(tokens['share_over'])} of them."
    )
    if tokens.get("unknown_share") is not None:
        text += f" {share(tokens['unknown_share'], 2)} of the tokens are unknown to the vocabulary."
    return tag("p", prose(text))


def _training(source: ReportSource) -> Markup | None:
    history = source.history
    if history is None:
        return None
    ended = "it stopped because it got no better" if history.stopped_early else "all were run"
    text = (
        f"{history.num_epochs} of at most {history.max_epochs} epochs: {ended}. The weights kept are those of epoch "
        f"{history.best_epoch}, the best by {_METRIC_NAMES.get(history.metric, history.metric)} on the validation rows."
    )
    numbers = tag("details", tag("summary", "All epochs in numbers"), epoch_table(history))
    return join(tag("p", text), _plots(training_plots(history)), numbers)


def _labels(source: ReportSource) -> Markup | None:
    e, measured = source.evaluation, source.measured
    if e is None or measured is None:
        return None
    train = measured.data.parts.get("train")
    counts = {} if train is None else train.labels
    note = "Click a heading to sort; small figures are 95 % intervals in per cent." if len(e.labels) > 1 else ""
    return join(
        tag("p", prose(note), class_="soft"), label_table(e, num_train=counts, thresholds=_stored_thresholds(source))
    )


def _stored_thresholds(source: ReportSource) -> Mapping[str, float]:
    manifest = source.model.manifest
    if manifest is None or (manifest.thresholds.default is None and not manifest.thresholds.labels):
        return {}
    decider = Decider(
        source.model.labels,
        source.model.problem_type,
        model_threshold=manifest.thresholds.default,
        model_thresholds=manifest.thresholds.labels,
    )
    return decider.thresholds


def _confusions(source: ReportSource) -> Markup | None:
    e = source.evaluation
    if e is None or e.confusion is None:
        return None
    if not e.confused:
        return tag("p", "Every text has its own label: nothing is confused.")
    matrix = confusion_table(e)
    if matrix is None:
        rest = tag("p", f"The matrix of {len(e.labels)} labels (more than {MAX_MATRIX_LABELS}) is in the output of ",
                   tag("code", "stream-training evaluate --json"), ".", class_="soft")  # fmt: skip
    else:
        rest = join(tag("h3", "Confusion matrix"), tag("p", "Rows: the true label; columns: the label given. Counts; "
                    "shaded by their share of the row.", class_="soft"), matrix)  # fmt: skip
    return join(tag("h3", "Most often confused"), pairs_table(e), rest)


def _confidence(source: ReportSource) -> Markup | None:
    e = source.evaluation
    return None if e is None else join(_calibration(source, e), _out_of_scope(source, e), _plots(measured_plots(e)))


def _calibration(source: ReportSource, e: Evaluation) -> Markup:
    spec = None if source.model.manifest is None else source.model.manifest.calibration
    if spec is None or spec.method == "none":
        return tag("p", "The probabilities are not calibrated.")
    where = spec.fitted_on if isinstance(spec.fitted_on, Mapping) else {}
    rows = f" on {where['n']} rows of {where['rows']}" if {"n", "rows"} <= where.keys() else ""
    scale = f", scale {spec.scale:.3f}" if isinstance(spec.scale, float) and spec.scale != 1 else ""
    confidence = share(float(e.answers.scores_N.mean()))
    return tag("p", prose(f"Calibrated by {spec.method}{scale}{rows}. Mean confidence {confidence}."))


def _out_of_scope(source: ReportSource, e: Evaluation) -> Markup | None:
    if e.out_of_scope is None:
        return None
    o = e.out_of_scope
    manifest = source.model.manifest
    rule = None if manifest is None else manifest.thresholds.rejection
    text = "There is no rule that rejects texts out of scope: stream-training thresholds fits one. "
    if rule is not None:
        text = f"Texts with a {_SCOPE_SCORES[rule.score]} below {rule.threshold:.3f} are taken to be out of scope. "
    auroc = ", ".join(f"{_SCOPE_SCORES[name]} {area:.3f}" for name, area in o.auroc.items())
    text += (
        f"Of {o.n:,} rows with {plain(o.label, width=40)} {share(o.recall)} are uncertain; of the others "
        f"{share(o.kept)} are accepted, {share(o.accepted_and_right)} with the right label. How well a score tells "
        f"the two apart at any threshold (area under the ROC curve, 0.5 is by chance): {auroc}."
    )
    return tag("p", prose(text))


def _plots(plots: list[Plot]) -> Markup:
    return tag(
        "div",
        *(tag("figure", tag("h3", p.title), Markup(p.svg), tag("figcaption", prose(p.caption))) for p in plots),
        class_="plots",
    )


def _mistakes(source: ReportSource) -> Markup | None:
    if source.texts is None or source.measured is None or source.evaluation is None:
        return None
    return mistakes_table(source.measured.answers, source.texts)


def _recipe(source: ReportSource) -> Markup:
    recipe = {key: value for key, value in source.training.items() if key not in ("figures", "measured_on")}
    parts = [_definitions({"digest": source.model.digest or "none: there is no classifier.json"})]
    if recipe:
        parts += [tag("h3", "Settings"), _definitions(recipe)]
    if source.content.get("versions"):
        parts += [tag("h3", "Versions"), _definitions(source.content["versions"])]
    return join(*parts)


def _definitions(values: Mapping[str, Any]) -> Markup:
    pairs = [join(tag("dt", str(key).replace("_", " ")), tag("dd", _shown(value))) for key, value in values.items()]
    return tag("dl", *pairs)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items()) or "none"
    return "none" if value is None else str(value)


def _resource(name: str) -> str:
    return resources.files("training.report").joinpath(name).read_text("utf-8")
