"""Reports: a run folder as plots and as one page that opens without a network."""

from saccade.report.comparison import compare_runs
from saccade.report.notebook import write_notebook
from saccade.report.page import write_report

__all__ = ["compare_runs", "write_notebook", "write_report"]
