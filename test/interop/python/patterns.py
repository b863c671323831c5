"""The tutorial's patterns by the blocking API: patterns.py NEAR FAR AMQP_PORT NAME. What is published goes by the node NEAR,
what is consumed comes by FAR, whose AMQP port the crossing uses. NAME begins the names of queues and exchanges."""

import sys
import threading
import time

import pika

import warren
from warren import Binding, Message

near_address, far_address, amqp_port, name = sys.argv[1:]
PATIENCE = 150.0  # seconds for any message


def check(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


def expect(consumer, *bodies):
    for want in bodies:
        delivery = consumer.next(PATIENCE)
        check(delivery.body, want, "message")
        delivery.ack()


def hello(near, far, publisher):
    near.declare_queue(name, durable=True)
    with far.consume(name) as consumer:
        publisher.publish(Message(b"hello", name))
        expect(consumer, b"hello")


def work_queue(near, far, publisher):
    """Two workers with one task each at a time: a slow one does not hold up the other."""
    with far.consume(name, credit=1) as slow:
        publisher.publish(Message(b"long", name))
        long = slow.next(PATIENCE)
        with near.consume(name, credit=1) as fast:
            tasks = [b"1", b"2", b"3", b"4"]
            for task in tasks:
                publisher.submit(Message(task, name))
            expect(fast, *tasks)
        long.ack()


def exchange(near, far, publisher, kind, binding, matches, misses):
    """Publishes a message that the binding matches and one that it does not, for two subscribers."""
    source = f"{name}.{kind}"
    near.declare_exchange(source, kind)
    bound = Binding(source, routing_key=binding.get("routing_key", ""), arguments=binding.get("arguments", {}))
    with far.consume(temporary=True, bindings=[bound]) as one, near.consume(temporary=True, bindings=[bound]) as two:
        if misses is not None:
            try:
                publisher.publish(Message(b"missed", exchange=source, **misses))
                raise AssertionError(f"{kind}: a message that nothing matches was routed")
            except warren.UnroutableError:
                pass
        publisher.publish(Message(kind.encode(), exchange=source, **matches))
        expect(one, kind.encode())
        expect(two, kind.encode())


def rpc(near, far, publisher):
    requests = name + ".rpc"
    far.declare_queue(requests)
    with far.consume(requests) as server, far.publisher() as answers:

        def answer(request):
            answers.publish(Message(request.body.upper(), request.reply_to, correlation_id=request.correlation_id))

        serving = threading.Thread(target=server.handle, args=(answer,))
        serving.start()
        with near.consume(temporary=True) as replies:
            for i in range(20):
                publisher.submit(Message(f"a{i}".encode(), requests, reply_to=replies.queue, correlation_id=str(i)))
            for i in range(20):
                reply = replies.next(PATIENCE)
                check((reply.correlation_id, reply.body), (str(i), f"A{i}".encode()), "reply")
                reply.ack()
        server.stop()
        serving.join()


def crossing(near, far, publisher):
    """What goes in by one protocol comes out by the other, on another node."""
    queue = name + ".cross"
    near.declare_queue(queue, durable=True)
    headers = {"n": warren.Int16(5), "s": "text", "l": [1, "two", None], "t": {"k": True}}
    publisher.publish(Message(b"by gRPC", queue, headers=headers, priority=2, content_type="text/plain"))
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(amqp_port)))
    channel = connection.channel()
    _, properties, body = channel.basic_get(queue, auto_ack=True)
    check(body, b"by gRPC", "body")
    check(properties.headers, dict(headers), "headers")
    check((properties.priority, properties.content_type, properties.delivery_mode), (2, "text/plain", 2), "properties")
    channel.confirm_delivery()
    sent = pika.BasicProperties(headers={"t": {"k": "v"}, "n": 7}, message_id="m", expiration="60000", delivery_mode=2)
    channel.basic_publish("", queue, b"by AMQP", sent)
    with near.consume(queue) as consumer:
        delivery = consumer.next(PATIENCE)
        check((delivery.body, delivery.headers), (b"by AMQP", {"t": {"k": "v"}, "n": 7}), "message")
        check((delivery.message_id, delivery.expiration, delivery.transient), ("m", 60.0, False), "properties")
        delivery.ack()
    connection.close()


def later(near, far, publisher):
    """A message that is worked on for longer, and tried again after a delay."""
    publisher.publish(Message(b"later", name))
    with far.consume(name) as consumer:
        delivery = consumer.next(PATIENCE)
        delivery.extend()
        begun = time.monotonic()
        delivery.fail(delay=0.3)
        again = consumer.next(PATIENCE)
        check((again.body, again.redelivered), (b"later", True), "again")
        if time.monotonic() - begun < 0.25:
            raise AssertionError("it came back early")
        again.ack()


with warren.Client(near_address) as near, warren.Client(far_address) as far, near.publisher() as publisher:
    both = (near, far, publisher)
    hello(*both)
    work_queue(*both)
    exchange(*both, "fanout", {}, {}, None)
    exchange(*both, "direct", {"routing_key": "error"}, {"routing_key": "error"}, {"routing_key": "info"})
    exchange(*both, "topic", {"routing_key": "*.orange.#"}, {"routing_key": "quick.orange.fox"}, {"routing_key": "orange.fox"})
    exchange(*both, "headers", {"arguments": {"x-match": "all", "a": 1, "b": "x"}},
             {"headers": {"a": 1, "b": "x", "c": True}}, {"headers": {"a": 1}})
    rpc(*both)
    crossing(*both)
    later(*both)
print("done")
