"""The templates of P3 that our data sets have: their names alone, so that `import tasks` fetches nothing.

A test compares them with the archive. Templates come in three kinds:

    ranked     have answer choices, are judged by accuracy, and ask what the data set was made for (`original_task`):
               what T0 is evaluated on
    choosing   have answer choices and are judged by accuracy, but ask for something else
    writing    the LM writes; among them templates whose choices are judged by BLEU, and one of IMDB whose targets are
               none of its choices ("This is definitely not a" ||| "negative review.")
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class DataSet(NamedTuple):
    """What is known of a data set before it is read.

    Attributes:
        sizes: how many records each split has.
        ranked: names of templates, see above.
        choosing: the same.
        writing: the same.
    """

    sizes: Mapping[str, int]
    ranked: Sequence[str] = ()
    choosing: Sequence[str] = ()
    writing: Sequence[str] = ()

    @property
    def templates(self) -> list[str]:
        """The names of all templates."""
        return [*self.ranked, *self.choosing, *self.writing]


def plain(name: str) -> str:
    """A name as a part of a task's name.

    Args:
        name: such as `ai2_arc/ARC-Easy` or `I wonder…`.

    Returns:
        The name with `_` for every run of characters that are no letters, digits or underscores, as P3 has it.
    """
    return re.sub(r"\W+", "_", name)


# By the folders of promptsource. docs/tasks.md says which training splits were carved out of validation sets.
DATA_SETS: dict[str, DataSet] = {
    "ai2_arc/ARC-Challenge": DataSet(
        {"train": 1112, "validation": 297, "test": 1172},
        ranked=[
            "heres_a_problem",
            "i_am_hesitating",
            "multiple_choice",
            "pick_the_most_correct_option",
            "qa_options",
        ],
        writing=[
            "pick_false_options",
        ],
    ),
    "ai2_arc/ARC-Easy": DataSet(
        {"train": 2240, "validation": 570, "test": 2376},
        ranked=[
            "heres_a_problem",
            "i_am_hesitating",
            "multiple_choice",
            "pick_the_most_correct_option",
            "qa_options",
        ],
        writing=[
            "pick_false_options",
        ],
    ),
    "commonsense_qa": DataSet(
        {"train": 8767, "validation": 974, "test": 1221},
        ranked=[
            "answer_given_question_without_options",
            "most_suitable_answer",
            "question_answering",
            "question_to_answer_index",
        ],
        writing=[
            "answer_to_question",
        ],
    ),
    "glue/mrpc": DataSet(
        {"train": 204, "validation": 82, "test": 122},
        ranked=[
            "equivalent",
            "paraphrase",
            "replace",
            "same thing",
            "want to know",
        ],
        writing=[
            "generate_paraphrase",
            "generate_sentence",
        ],
    ),
    "glue/sst2": DataSet(
        {"train": 436, "validation": 174, "test": 262},
        ranked=[
            "following positive negative",
            "happy or mad",
            "positive negative after",
            "review",
            "said",
        ],
    ),
    "hellaswag": DataSet(
        {"train": 35784, "validation": 3976, "test": 10042},
        ranked=[
            "Predict ending with hint",
            "Randomized prompts template",
            "complete_first_then",
            "if_begins_how_continues",
        ],
        choosing=[
            "Appropriate continuation - Yes or No",
            "Reversed appropriate continuation - Yes or No",
            "how_ends",
        ],
        writing=[
            "Open-ended completion",
            "Open-ended start",
            "Topic of the context",
            "Topic without the ending answer",
        ],
    ),
    "hotpot_qa/distractor": DataSet(
        {"train": 5925, "validation": 740, "test": 740},
        writing=[
            "generate_answer_affirmative",
            "generate_answer_and_explanations",
            "generate_answer_interrogative",
            "generate_explanations_affirmative",
            "generate_explanations_interrogative",
            "generate_question",
            "generate_title_affirmative",
        ],
    ),
    "imdb": DataSet(
        {"train": 40000, "validation": 5000, "test": 5000},
        ranked=[
            "Movie Expressed Sentiment",
            "Movie Expressed Sentiment 2",
            "Reviewer Enjoyment",
            "Reviewer Enjoyment Yes No",
            "Reviewer Expressed Sentiment",
            "Reviewer Opinion bad good choices",
            "Reviewer Sentiment Feeling",
            "Sentiment with choices ",
            "Text Expressed Sentiment",
            "Writer Expressed Sentiment",
        ],
        writing=[
            "Negation template for positive and negative",
        ],
    ),
    "kilt_tasks/hotpotqa": DataSet(
        {"train": 5925, "validation": 740, "test": 740},
        writing=[
            "combining_facts",
            "complex_question",
            "final_exam",
            "formulate",
            "straighforward_qa",
        ],
    ),
    "nq_open": DataSet(
        {"train": 2888, "validation": 361, "test": 361},
        writing=[
            "first_person_context",
            "formal_description",
            "guess_question",
            "question_answer",
            "question_with_instruction",
            "search query",
        ],
    ),
    "openbookqa/main": DataSet(
        {"train": 4912, "validation": 499, "test": 500},
        ranked=[
            "choices",
            "choose_an_answer_with_options",
            "only_options",
            "pick_answer_with_options",
            "pick_using_id",
            "which_correct",
            "which_correct_inverse",
        ],
    ),
    "piqa": DataSet(
        {"train": 13969, "validation": 1552, "test": 1838},
        ranked=[
            "choose the most appropriate solution",
            "finish_sentence_with_correct_choice",
            "pick_correct_choice_index",
            "pick_correct_choice_with_choice_given_before_goal",
            "what_is_the_correct_ending",
        ],
        choosing=[
            "Does this solution make sense? sol1",
            "Does this solution make sense? sol2",
        ],
        writing=[
            "Correct the solution",
            "Correct the solution if false: from sol 1",
            "Correct the solution if false: from sol 2",
            "no prompt needed",
        ],
    ),
    "sciq": DataSet(
        {"train": 500, "validation": 200, "test": 300},
        ranked=[
            "Direct Question",
            "Direct Question (Closed Book)",
            "Multiple Choice",
            "Multiple Choice Question First",
        ],
        choosing=[
            "Multiple Choice (Closed Book)",
        ],
    ),
    "social_i_qa": DataSet(
        {"train": 30069, "validation": 3341, "test": 1954},
        ranked=[
            "Check if a random answer is valid or not",
            "Generate answer",
            "I was wondering",
            "Show choices and generate answer",
            "Show choices and generate index",
        ],
        writing=[
            "Generate the question from the answer",
        ],
    ),
    "squad_v2": DataSet(
        {"train": 8584, "validation": 1037, "test": 2252},
        choosing=[
            "Unanwerable question",
        ],
        writing=[
            "Jeopardy with Context",
            "Jeopardy without Context",
            "Questions with Context",
            "Questions with Context +unanswerable",
            "Questions with Context - Without Prompt Keywords",
            "Questions with Context - Without Prompt Keywords +unanswerable",
            "Topic Prediction - Context",
            "Topic Prediction - Context with randomized prompt options",
            "Topic Prediction - Context with randomized prompt options placed in the end",
            "Topic Prediction - Question and Answer Pair",
            "Trivia",
        ],
    ),
    "super_glue/boolq": DataSet(
        {"train": 7176, "validation": 797, "test": 3270},
        ranked=[
            "GPT-3 Style",
            "I wonder…",
            "after_reading",
            "based on the following passage",
            "based on the previous passage",
            "could you tell me…",
            "exam",
            "exercise",
            "valid_binary",
            "yes_no_question",
        ],
    ),
    "super_glue/cb": DataSet(
        {"train": 28, "validation": 11, "test": 17},
        ranked=[
            "GPT-3 style",
            "MNLI crowdsource",
            "always/sometimes/never",
            "based on the previous passage",
            "can we infer",
            "claim true/false/inconclusive",
            "consider always/sometimes/never",
            "does it follow that",
            "does this imply",
            "guaranteed true",
            "guaranteed/possible/impossible",
            "justified in saying",
            "must be true",
            "should assume",
            "take the following as truth",
        ],
    ),
    "super_glue/copa": DataSet(
        {"train": 50, "validation": 20, "test": 30},
        ranked=[
            "C1 or C2? premise, so/because…",
            "best_option",
            "cause_effect",
            "choose",
            "exercise",
            "i_am_hesitating",
            "more likely",
            "plausible_alternatives",
            "…As a result, C1 or C2?",
            "…What could happen next, C1 or C2?",
            "…which may be caused by",
            "…why? C1 or C2",
        ],
    ),
    "super_glue/rte": DataSet(
        {"train": 139, "validation": 55, "test": 83},
        ranked=[
            "GPT-3 style",
            "MNLI crowdsource",
            "based on the previous passage",
            "can we infer",
            "does it follow that",
            "does this imply",
            "guaranteed true",
            "justified in saying",
            "must be true",
            "should assume",
        ],
    ),
    "trivia_qa/unfiltered": DataSet(
        {"train": 6395, "validation": 799, "test": 799},
        writing=[
            "first_person_context",
            "formal_description",
            "guess_question",
            "question_answer",
            "question_with_instruction",
        ],
    ),
    "winogrande/winogrande_xl": DataSet(
        {"train": 36358, "validation": 4040, "test": 1267},
        ranked=[
            "Replace",
            "does underscore refer to",
            "fill in the blank",
            "stand for",
            "underscore refer to",
        ],
        choosing=[
            "True or False",
        ],
    ),
}
