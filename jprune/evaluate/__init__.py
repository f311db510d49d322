"""How good a model is: perplexity, also of models that were never built, zero-shot tasks, and the
text it writes.
"""

from jprune.evaluate.encoding import Request, TextEncoder
from jprune.evaluate.log_likelihoods import LogLikelihoods, log_likelihoods
from jprune.evaluate.multiple_choice import (
    Average,
    Metric,
    TaskAnswers,
    TaskQuestions,
    answer_tasks,
    averages,
    evaluate_tasks,
    task_correct,
    task_questions,
)
from jprune.evaluate.perplexity import (
    EvaluationSet,
    Perplexity,
    evaluate_sets,
    evaluate_sources,
    evaluation_sets,
    perplexity,
    summarise,
    window_nll,
)
from jprune.evaluate.plans import Removal
from jprune.evaluate.protocol import PROTOCOLS, Protocol, preset
from jprune.evaluate.samples import Sample, generate_texts, prompt_ids
from jprune.evaluate.stitched import StitchedModels
from jprune.evaluate.tasks import AVERAGES, TASKS, Question, Task

__all__ = [
    "AVERAGES",
    "Average",
    "LogLikelihoods",
    "Metric",
    "Question",
    "Request",
    "TASKS",
    "Task",
    "TaskAnswers",
    "TaskQuestions",
    "TextEncoder",
    "answer_tasks",
    "averages",
    "evaluate_tasks",
    "log_likelihoods",
    "task_correct",
    "task_questions",
    "PROTOCOLS",
    "EvaluationSet",
    "Perplexity",
    "Protocol",
    "Removal",
    "Sample",
    "StitchedModels",
    "evaluate_sets",
    "evaluate_sources",
    "evaluation_sets",
    "generate_texts",
    "perplexity",
    "preset",
    "prompt_ids",
    "summarise",
    "window_nll",
]
