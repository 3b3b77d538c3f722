"""Lines, event files, and what a resumed run makes of them."""

import json
import struct

import pytest
from etils import epath

from frozen_jax import metrics
from frozen_jax.errors import UserError
from frozen_jax.event_file import EventFile

TRAIN = {"loss": 1.5, "accuracy": 0.25, "real_tokens": 30.0}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder, first, last, **options):
    """What a run from one step to another writes; it evaluates after the last."""
    writer = metrics.MetricWriter(folder, first_step=first, **options)
    with writer.progress(first, last):
        for index in range(first, last):
            writer.step(index, {**TRAIN, "loss": float(index)}, examples=4, tokens=40)
        writer.evaluation(last, {"mean": 0.5})
    return writer


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves by hand."""
    now = [100.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    return now


def test_a_line_every_so_many_steps(tmp_path):
    write(tmp_path, 0, 7, log_period=3)
    assert [(line["kind"], line["step"]) for line in lines(tmp_path)] == [("train", 3), ("train", 6), ("eval", 7)]
    assert lines(tmp_path)[0]["loss"] == 2.0, "the third step's own"
    assert lines(tmp_path)[2] == {"kind": "eval", "step": 7, "mean": 0.5}


def test_speeds_are_means_since_the_last_line(tmp_path, clock):
    writer = metrics.MetricWriter(tmp_path, log_period=2)
    with writer.progress(0, 2):
        for index in range(2):
            clock[0] += 5.0
            writer.step(index, TRAIN, examples=4, tokens=40)
    (line,) = lines(tmp_path)
    assert line["seconds_per_step"] == 5.0
    assert line["examples_per_second"] == 0.8
    assert line["real_tokens_per_second"] == 6.0
    assert line["padding_tokens_per_second"] == 2.0


def test_time_of_an_evaluation_is_no_time_of_training(tmp_path, clock):
    writer = metrics.MetricWriter(tmp_path, log_period=2)
    with writer.progress(0, 2):
        clock[0] += 5.0
        writer.step(0, TRAIN, examples=4, tokens=40)
        clock[0] += 1000.0
        writer.evaluation(1, {"mean": 0.5})
        clock[0] += 5.0
        writer.step(1, TRAIN, examples=4, tokens=40)
    assert lines(tmp_path)[1]["seconds_per_step"] == 5.0


def test_a_resumed_run_drops_what_it_will_do_again(tmp_path):
    write(tmp_path, 0, 6, log_period=1)
    write(tmp_path, 4, 8, log_period=1)
    found = [(line["kind"], line["step"]) for line in lines(tmp_path)]
    assert found == [*(("train", step) for step in range(1, 9)), ("eval", 8)]


def test_a_last_line_that_was_cut_is_dropped(tmp_path):
    write(tmp_path, 0, 3, log_period=1)
    file = epath.Path(tmp_path) / "metrics.jsonl"
    whole = file.read_text()
    for cut in (2, 10, len(whole.splitlines()[-1])):
        file.write_text(whole[:-cut])
        assert len(metrics._lines_before(file, 3)) == 3
    for other in ("", "12\n", "null\n", "{}\n", '{"step": null}\n', "\n"):
        file.write_text(other + whole)
        assert len(metrics._lines_before(file, 3)) == 4


def test_a_kill_while_writing_loses_no_line(tmp_path, monkeypatch):
    writer = write(tmp_path, 0, 3, log_period=1)
    before = (tmp_path / "metrics.jsonl").read_text()
    path = type(writer.directory)
    original = path.write_text

    def half(self, text):
        original(self, text[: len(text) // 2])
        raise KeyboardInterrupt  # nothing in between catches it, as nothing catches a kill

    monkeypatch.setattr(path, "write_text", half)
    writer.evaluation(3, {"mean": 0.75})
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    writer = metrics.MetricWriter(tmp_path, log_period=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(writer.directory), "write_text", full)
    writer.step(0, TRAIN, examples=4, tokens=40)
    with pytest.raises(UserError, match=rf"cannot write metrics to {tmp_path}: No space left on device"):
        writer.flush()
    with pytest.raises(UserError, match=r"the first"), writer.progress(0, 1):  # flushing at the end does not hide it
        raise UserError("the first")


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "is_first", lambda: False)
    write(tmp_path / "run", 0, 3, log_period=1)
    assert not (tmp_path / "run").exists()


def test_a_progress_bar_in_a_terminal(tmp_path, monkeypatch, capsys):
    write(tmp_path / "a", 0, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(metrics.sys.stderr, "isatty", lambda: True, raising=False)
    write(tmp_path / "b", 0, 2)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "loss=1.000" in shown
    assert "validation" not in shown
    writer = metrics.MetricWriter(tmp_path / "c")
    with writer.progress(4, 6):
        writer.evaluation(5, {"mean": 0.5, "task/accuracy": 0.25})
        writer.step(5, TRAIN, examples=4, tokens=40)
    assert "validation mean=0.500, loss=1.500" in capsys.readouterr().err


def events(file):
    """The records of an event file, by the published format, with their checksums compared; steps, tags and values."""
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert data[8:12] == checksum(data[:8])
        event, data = data[12 : 12 + length], data[12 + length :]
        assert data[:4] == checksum(event)
        found.append(dict(fields(event[9:])))  # behind the time, a tag and a double
        data = data[4:]
    return found


def checksum(data):
    """CRC-32C bit by bit, from RFC 3720's polynomial, masked as TFRecord says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32)


def fields(message):
    """Field number → value of a protocol buffer."""
    while message:
        key, message = varint(message)
        if key % 8 == 0:
            value, message = varint(message)
        elif key % 8 == 2:
            length, message = varint(message)
            value, message = message[:length], message[length:]
        else:
            size = {1: 8, 5: 4}[key % 8]
            (value,), message = struct.unpack("<d" if size == 8 else "<f", message[:size]), message[size:]
        yield key // 8, value


def varint(message):
    number = 0
    for place, byte in enumerate(message):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, message[place + 1 :]
    raise ValueError("cut")


def test_checksum_is_that_of_the_standard():
    assert struct.pack("<I", ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32) == checksum(b"123456789")


def test_event_file(tmp_path):
    board = EventFile(tmp_path, first_step=301)
    board.add("train/loss", 1.5, 300)
    board.flush()
    board.add("eval/x" * 30, -2e30, 70_000)
    board.flush()
    version, session, first, second = events(tmp_path / board.path.name)
    assert version == {3: b"brain.Event:2"}
    assert session == {2: 301, 7: b"\x08\x01"}, "TensorBoard hides what earlier files say of step 301 and later"
    assert first[2] == 300
    assert dict(fields(dict(fields(first[5]))[1])) == {1: b"train/loss", 2: 1.5}
    assert second[2] == 70_000
    assert dict(fields(dict(fields(second[5]))[1])) == {1: b"eval/x" * 30, 2: pytest.approx(-2e30)}


def test_resumed_runs_leave_a_file_each(tmp_path):
    write(tmp_path, 0, 2, log_period=1)
    write(tmp_path, 2, 4, log_period=1)
    first, second = sorted((tmp_path / "tensorboard").iterdir())
    assert [event[2] for event in events(first) if 5 in event] == [1] * 7 + [2] * 8
    assert [event[2] for event in events(second) if 7 in event] == [3]
    assert {event[2] for event in events(second) if 5 in event} == {3, 4}


def test_lines_are_written_now_and_then(tmp_path, clock):
    writer = metrics.MetricWriter(tmp_path, log_period=1)
    clock[0] += 1.0
    writer.step(0, TRAIN, examples=4, tokens=40)
    assert not (tmp_path / "metrics.jsonl").exists()
    clock[0] += 10.0
    writer.step(1, TRAIN, examples=4, tokens=40)
    assert len(lines(tmp_path)) == 2
