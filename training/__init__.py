"""Makes the models that `stream_classifier` loads: read a table, split it, fine-tune, measure, write a model directory.

The public functions are loaded on first use: importing this package pulls in neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.adaptation import Adaptation, adapt
    from training.adaptation_settings import AdaptSettings
    from training.augmentation.settings import AugmentSettings
    from training.augmentation.table import AugmentResult, augment
    from training.comparison import Comparison, compare
    from training.conversion import Conversion, convert
    from training.cross_validation import CrossValidation, cross_validate
    from training.data import Columns
    from training.distillation import DistillResult, distill
    from training.evaluation import Evaluation, evaluate
    from training.fitting import FitResult, fit
    from training.folding import ExportResult, export
    from training.history import TrainingHistory, read_history
    from training.inspection import Inspection, check_data
    from training.interrupts import Interrupted
    from training.lesson import LessonSettings
    from training.parity import Parity, ParityError
    from training.parity_limits import ParityLimits
    from training.presets import preset
    from training.quantization import QuantizeResult, quantize
    from training.recalibration import CalibrationResult, calibrate
    from training.rejection_tuning import RejectionResult, reject
    from training.reporting import ReportResult, write_report
    from training.settings import FitSettings
    from training.threshold_tuning import Costs, Goal, ThresholdResult, thresholds

__all__ = [
    "AdaptSettings",
    "Adaptation",
    "AugmentResult",
    "AugmentSettings",
    "CalibrationResult",
    "Columns",
    "Comparison",
    "Conversion",
    "Costs",
    "CrossValidation",
    "DistillResult",
    "Evaluation",
    "ExportResult",
    "FitResult",
    "FitSettings",
    "Goal",
    "Inspection",
    "Interrupted",
    "LessonSettings",
    "Parity",
    "ParityError",
    "ParityLimits",
    "QuantizeResult",
    "RejectionResult",
    "ReportResult",
    "ThresholdResult",
    "TrainingHistory",
    "adapt",
    "augment",
    "calibrate",
    "check_data",
    "compare",
    "convert",
    "cross_validate",
    "distill",
    "evaluate",
    "export",
    "fit",
    "preset",
    "quantize",
    "read_history",
    "reject",
    "thresholds",
    "write_report",
]

_HOMES = {
    "AdaptSettings": "training.adaptation_settings",
    "Adaptation": "training.adaptation",
    "AugmentResult": "training.augmentation.table",
    "AugmentSettings": "training.augmentation.settings",
    "CalibrationResult": "training.recalibration",
    "Columns": "training.data",
    "Comparison": "training.comparison",
    "Conversion": "training.conversion",
    "Costs": "training.threshold_tuning",
    "CrossValidation": "training.cross_validation",
    "DistillResult": "training.distillation",
    "Evaluation": "training.evaluation",
    "ExportResult": "training.folding",
    "FitResult": "training.fitting",
    "FitSettings": "training.settings",
    "Goal": "training.threshold_tuning",
    "Inspection": "training.inspection",
    "Interrupted": "training.interrupts",
    "LessonSettings": "training.lesson",
    "Parity": "training.parity",
    "ParityError": "training.parity",
    "ParityLimits": "training.parity_limits",
    "QuantizeResult": "training.quantization",
    "RejectionResult": "training.rejection_tuning",
    "ReportResult": "training.reporting",
    "ThresholdResult": "training.threshold_tuning",
    "TrainingHistory": "training.history",
    "adapt": "training.adaptation",
    "augment": "training.augmentation.table",
    "calibrate": "training.recalibration",
    "check_data": "training.inspection",
    "compare": "training.comparison",
    "convert": "training.conversion",
    "cross_validate": "training.cross_validation",
    "distill": "training.distillation",
    "evaluate": "training.evaluation",
    "export": "training.folding",
    "fit": "training.fitting",
    "preset": "training.presets",
    "quantize": "training.quantization",
    "read_history": "training.history",
    "reject": "training.rejection_tuning",
    "thresholds": "training.threshold_tuning",
    "write_report": "training.reporting",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
