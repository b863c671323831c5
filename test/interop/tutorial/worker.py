"""A worker: worker.py QUEUE [fair] [hang]

Each dot in a task is a tenth of a second of work. `fair` asks for one task at a time; with `hang` the worker takes
a task and never acknowledges it.
"""
import sys
import time

from broker import connect

queue, options = sys.argv[1], sys.argv[2:]
connection = connect()
channel = connection.channel()
channel.queue_declare(queue=queue, durable=True)


def callback(ch, method, properties, body):
    print(" [x] Received %r redelivered=%s" % (body.decode(), method.redelivered), flush=True)
    if 'hang' in options:
        return
    time.sleep(body.count(b'.') / 10)
    ch.basic_ack(delivery_tag=method.delivery_tag)
    print(" [x] Done %r" % body.decode(), flush=True)


if 'fair' in options:
    channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue=queue, on_message_callback=callback)
print(' [*] Waiting', flush=True)
channel.start_consuming()
