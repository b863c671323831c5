"""The tutorial's patterns by the asyncio API: patterns_aio.py NEAR FAR AMQP_PORT NAME, as in patterns.py."""

import asyncio
import sys

from warren import aio
from warren.aio import Binding, Message

near_address, far_address, _, name = sys.argv[1:]
PATIENCE = 150.0  # seconds for any message


def check(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


async def expect(consumer, *bodies):
    for want in bodies:
        async with asyncio.timeout(PATIENCE):
            delivery = await consumer.next()
        check(delivery.body, want, "message")
        await delivery.ack()


async def hello(near, far, publisher):
    await near.declare_queue(name, durable=True)
    async with await far.consume(name) as consumer:
        await publisher.publish(Message(b"hello", name))
        await expect(consumer, b"hello")


async def work_queue(near, far, publisher):
    """Two workers with one task each at a time: a slow one does not hold up the other."""
    async with await far.consume(name, credit=1) as slow:
        await publisher.publish(Message(b"long", name))
        async with asyncio.timeout(PATIENCE):
            long = await slow.next()
        async with await near.consume(name, credit=1) as fast:
            tasks = [b"1", b"2", b"3", b"4"]
            outcomes = [await publisher.submit(Message(task, name)) for task in tasks]
            await expect(fast, *tasks)
            await asyncio.gather(*outcomes)
        await long.ack()


async def exchange(near, far, publisher, kind, bindings, matches, misses):
    """Publishes a message that the bindings match and one that they do not, for two subscribers."""
    source = f"{name}.{kind}"
    await near.declare_exchange(source, kind)
    bound = [Binding(source, **b) for b in bindings]
    async with (
        await far.consume(temporary=True, bindings=bound) as one,
        await near.consume(temporary=True, bindings=bound) as two,
    ):
        if misses is not None:
            try:
                await publisher.publish(Message(b"missed", exchange=source, **misses))
                raise AssertionError(f"{kind}: a message that nothing matches was routed")
            except aio.UnroutableError:
                pass
        await publisher.publish(Message(kind.encode(), exchange=source, **matches))
        await expect(one, kind.encode())
        await expect(two, kind.encode())


async def rpc(near, far, publisher):
    requests = name + ".rpc"
    await far.declare_queue(requests)
    async with await far.consume(requests) as server, far.publisher() as answers:

        async def answer(request):
            await answers.publish(Message(request.body.upper(), request.reply_to, correlation_id=request.correlation_id))

        serving = asyncio.create_task(server.handle(answer))
        async with await near.consume(temporary=True) as replies:
            for i in range(20):
                await publisher.submit(Message(f"a{i}".encode(), requests, reply_to=replies.queue, correlation_id=str(i)))
            await expect(replies, *(f"A{i}".encode() for i in range(20)))
        server.stop()
        await serving


async def take(near, far, publisher):
    """Single messages: given back, taken again, and the queue is empty then."""
    await publisher.publish(Message(b"single", name))
    first = await far.get(name)
    check((first.body, first.redelivered), (b"single", False), "first")
    await first.extend()
    await first.requeue(delay=0.01)
    while (again := await near.get(name)) is None:
        await asyncio.sleep(0.01)
    check((again.body, again.redelivered), (b"single", True), "again")
    await again.ack()
    check(await far.get(name), None, "empty")


async def sizes(near, far, publisher):
    """A message above the bound is rejected, by the broker or (when its request is too large) by gRPC, and harms no other. Long
    headers count as well."""
    for size in (17 << 20, 21 << 20):
        outcomes = [await publisher.submit(Message(body, name)) for body in (b"before", bytes(size), b"after")]
        before, large, after = await asyncio.gather(*outcomes, return_exceptions=True)
        check((before, type(large), after), (None, aio.RejectedError, None), "outcomes")
        check(large.reason, aio.Reason.PRECONDITION_FAILED, "reason")
    headers = {f"h{i}": "x" * 1024 for i in range(40)}
    outcomes = [await publisher.submit(Message(b"", name, headers=headers)) for _ in range(600)]
    await asyncio.gather(*outcomes)
    check(await near.purge_queue(name), 604, "messages")


async def main():
    async with aio.Client(near_address) as near, aio.Client(far_address) as far, near.publisher() as publisher:
        both = (near, far, publisher)
        await hello(*both)
        await work_queue(*both)
        await exchange(*both, "fanout", [{}], {}, None)
        await exchange(*both, "direct", [{"routing_key": "error"}], {"routing_key": "error"}, {"routing_key": "info"})
        await exchange(*both, "topic", [{"routing_key": "*.orange.#"}], {"routing_key": "quick.orange.fox"}, {"routing_key": "orange.fox"})
        await exchange(*both, "headers", [{"arguments": {"x-match": "all", "a": 1, "b": "x"}}],
                       {"headers": {"a": 1, "b": "x", "c": True}}, {"headers": {"a": 1}})
        await rpc(*both)
        await take(*both)
        await sizes(*both)
    print("done")


asyncio.run(main())
