"""Many clients at once, some of which leave: every answer is whole and the right one, and nothing is left behind."""

import asyncio
import json
import random
import time
from pathlib import Path

import pytest
from served import SECONDS, wait_for

PAGES = ("pages_free", "pages_cached", "pages_running")
SHARED = "there theme day " * 12


class Client:
    """Sends one request after the other until a time; leaves some of them at random moments."""

    def __init__(self, server, number, expected):
        self.server, self.draw, self.expected = server, random.Random(number), expected
        self.completed = self.left = 0

    async def run(self, until):
        while time.monotonic() < until:
            await self.request()

    async def request(self):
        draw = self.draw
        # A few kinds of requests, greedy, so that each has one right answer.
        kind = (draw.randrange(4), draw.choice((1, 7, 30)), draw.choice((1, 1, 3)), draw.random() < 0.5)
        prompt, max_tokens, n, stream = kind
        body = {"prompt": SHARED + "abcd"[prompt], "max_tokens": max_tokens, "n": n, "stream": stream}
        data = json.dumps(body | {"temperature": 0, "ignore_eos": True, "logprobs": 1}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
        )
        reader, writer = await asyncio.open_connection(*self.server.address)
        try:
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
            if draw.random() < 0.3:
                await asyncio.sleep(draw.random() * 0.05)
                self.left += 1
                return
            answer = await asyncio.wait_for(reader.read(), SECONDS * 3)
        finally:
            writer.close()
        status = int(answer.split(b" ", 2)[1])
        assert status == 200, answer
        texts = self.texts(answer, stream)
        assert len(texts) == n
        assert texts == self.expected.setdefault(kind[:3], texts)
        self.completed += 1

    def texts(self, answer, stream):
        content = answer.partition(b"\r\n\r\n")[2]
        if not stream:
            return [choice["text"] for choice in json.loads(content)["choices"]]
        # A body in chunks, of which each is an event.
        events = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: ")]
        assert events.pop() == b"[DONE]"
        texts = {}
        for event in map(json.loads, events):
            for choice in event["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        return [texts[index] for index in sorted(texts)]


def soak(server, seconds):
    """(requests completed, requests left)."""
    before, expected = server.metrics(), {}
    clients = [Client(server, number, expected) for number in range(64)]

    async def all_at_once():
        until = time.monotonic() + seconds
        await asyncio.gather(*(client.run(until) for client in clients))

    asyncio.run(all_at_once())
    wait_for(server.is_idle)
    wait_for(lambda: not server.served.runs)
    now = server.metrics()
    assert sum(now[name] for name in PAGES) == sum(before[name] for name in PAGES) > 0
    assert now["pages_running"] == now["num_requests_waiting"] == 0
    assert now["prefix_cache_hits_total"] > before["prefix_cache_hits_total"]
    return sum(client.completed for client in clients), sum(client.left for client in clients)


def test_sixty_four_clients_of_which_some_leave(server):
    completed, left = soak(server, 0.5)
    assert completed > 20
    assert left > 0


@pytest.mark.slow
def test_sixty_four_clients_for_a_minute(server):
    completed, left = soak(server, 60)
    assert completed > 64
    assert left > 20


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_requests(server):
    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def ask(count):
        for number in range(count):
            body = {"prompt": f"there {number}", "max_tokens": 1, "stream": number % 2 == 0, "logprobs": 1}
            assert server.ask("/v1/completions", body).status == 200

    ask(2000)
    before = resident_bytes()
    ask(8000)
    assert resident_bytes() - before < 16_000_000
