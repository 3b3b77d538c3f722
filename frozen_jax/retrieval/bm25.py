"""BM25 (Robertson and Zaragoza 2009) over tantivy: an index on disk, mapped into memory.

    directory/tantivy/       tantivy's own files: postings, lengths, the passages' numbers; no text
             index.json     which corpus and which settings it is of; written last
             .lock          held by the process that makes it

A passage scores by the words that it shares with the question, title and text as one; a word that the question repeats
counts once (which finds HotpotQA's gold paragraphs a little more often). Questions are words and nothing else: no
quote, colon or OR in them means anything. tantivy has k1 = 1.2 and b = 0.75, which cannot be set, and keeps lengths in
one byte, so that passages of about equal length count as equally long: ties are common. Equal scores stand in the order
of the passages' numbers.

Of several processes the first one has the index, which may lie on its host's disk, and tells the others what it finds.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
import tantivy
from etils import epath

from frozen_jax import cloud_storage, processes, progress
from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import NONE, Corpus, Hits, Retriever

_HEAP = 256_000_000  # bytes that the index under construction may hold before it is written out
_LONGEST_WORD = 40  # characters; longer ones are no words
_FOLDER, _MADE, _LOCK = "tantivy", "index.json", ".lock"
_TEXT, _NUMBER, _ANALYZER = "text", "number", "words"


@gin.configurable
class BM25(Retriever):
    """Finds passages by their words.

    Attributes:
        corpus: where the passages are.
        directory: of the index.
    """

    def __init__(self, corpus: Corpus, directory: epath.PathLike, stemming: str | None = "english") -> None:
        """Opens the index, or builds it with a progress bar: 16,000 passages or more a second of one core.

        Args:
            corpus: where the passages are.
            directory: for the index of this corpus alone; local, since the index is mapped into memory.
            stemming: the language whose endings are cut off, one that tantivy knows, in lower case; None: none are.

        Raises:
            UserError: if the directory holds an index of another corpus or of other settings, is on gs://, or there is
                no such language.
        """
        if cloud_storage.is_cloud(directory):
            raise UserError(f"BM25.directory: {os.fspath(directory)} must be local: the index is mapped into memory")
        self.corpus, self.directory = corpus, epath.Path(directory)
        self._stemming = stemming
        self._analyzer = _analyzer(stemming)
        self._schema = _schema()
        processes.from_first(self._begin)

    @property
    def made(self) -> Mapping[str, Any]:
        """Everything that decides what is found."""
        return {"retriever": "bm25", "format": 1, "corpus": self.corpus.sha256, "stemming": self._stemming}

    def search(self, questions: Sequence[str], count: int) -> Hits:
        """Finds passages, on all cores.

        Args:
            questions: B of them.
            count: N, how many passages for each.

        Returns:
            The best passages of each question; none for one that shares no word with any.
        """
        return Hits(**processes.from_first(lambda: self._search(questions, count)._asdict()))

    def _search(self, questions: Sequence[str], count: int) -> Hits:
        passages = np.full((len(questions), count), NONE, np.int64)
        scores = np.full((len(questions), count), -np.inf, np.float32)
        with concurrent.futures.ThreadPoolExecutor() as pool:  # tantivy lets go of Python's lock while it searches
            for row, hits in enumerate(pool.map(lambda question: self._best(question, count), questions)):
                for column, (score, number) in enumerate(hits):
                    passages[row, column], scores[row, column] = number, -score
        return Hits(passages, scores)

    def _begin(self) -> None:
        if not self._is_built():
            self._build()
        self._searcher = self._open().searcher()

    def _best(self, question: str, count: int) -> list[tuple[float, int]]:
        """The best passages: minus their scores, and their numbers."""
        words = dict.fromkeys(self._analyzer.analyze(question))
        terms = [tantivy.Query.term_query(self._schema, _TEXT, word, "freq") for word in words]
        hits = self._hits_and_ties(tantivy.Query.boolean_query([(tantivy.Occur.Should, term) for term in terms]), count)
        numbers = np.array(self._searcher.fast_field_values(_NUMBER, [address for _, address in hits]), np.int64)
        return sorted((-score, number) for (score, _), number in zip(hits, numbers.tolist(), strict=True))[:count]

    def _hits_and_ties(self, query: tantivy.Query, count: int) -> list[tuple[float, tantivy.DocAddress]]:
        """All passages that score as well as the last wanted: tantivy would choose among them by their place."""
        limit = count + 16
        while True:
            hits = self._searcher.search(query, limit, count=False).hits
            if len(hits) < limit or hits[-1][0] < hits[count - 1][0]:
                return hits
            limit *= 4

    def _is_built(self) -> bool:
        """Whether the index is there, whole."""
        try:
            made = json.loads((self.directory / _MADE).read_text())
        except FileNotFoundError:
            return False
        if made == self.made:
            return True
        of = "another corpus" if made.get("corpus") != self.corpus.sha256 else f"other settings ({made})"
        raise UserError(
            f"BM25.directory: {self.directory} holds the index of {of}; name another directory, or delete this one"
        )

    def _build(self) -> None:
        """Of several runs that want the index one makes it, the others wait; a kill gives the lock free."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_built():
                self._write_index()

    def _write_index(self) -> None:
        """Makes the index, anew where a build was killed; one thread, so that passages go in in their order."""
        folder = self.directory / _FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        index = tantivy.Index(self._schema, path=os.fspath(folder), reuse=False)
        index.register_tokenizer(_ANALYZER, self._analyzer)
        with index.writer(_HEAP, num_threads=1) as writer:
            passages = progress.bar(iter(self.corpus), total=len(self.corpus), desc="BM25", unit="passages")
            for number, passage in enumerate(passages):
                document = tantivy.Document()
                document.add_unsigned(_NUMBER, number)
                document.add_text(_TEXT, passage.whole)
                writer.add_document(document)
        cloud_storage.write_whole(self.directory / _MADE, json.dumps(self.made, indent=1))

    def _open(self) -> tantivy.Index:
        try:
            return tantivy.Index.open(os.fspath(self.directory / _FOLDER))
        except (ValueError, OSError) as error:
            raise UserError(
                f"BM25.directory: the index in {self.directory} is damaged or of another tantivy ({error}); "
                "delete the directory, and it is made anew"
            ) from error


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(_TEXT, tokenizer_name=_ANALYZER, index_option="freq")  # without positions: half the size
    builder.add_unsigned_field(_NUMBER, fast=True)
    return builder.build()


def _analyzer(stemming: str | None) -> tantivy.TextAnalyzer:
    """Text to words: letters and digits between anything else, in lower case, without endings."""
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    builder = builder.filter(tantivy.Filter.remove_long(_LONGEST_WORD)).filter(tantivy.Filter.lowercase())
    if stemming is None:
        return builder.build()
    try:
        return builder.filter(tantivy.Filter.stemmer(stemming)).build()
    except ValueError as error:
        raise UserError(f"BM25.stemming: {stemming!r} is no language that tantivy knows; take 'english'") from error
