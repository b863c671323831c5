"""Puts a task into a durable queue as a persistent message: new_task.py QUEUE TEXT..."""
import sys

import pika

from broker import connect

connection = connect()
channel = connection.channel()
channel.queue_declare(queue=sys.argv[1], durable=True)
for message in sys.argv[2:]:
    channel.basic_publish(
        exchange='',
        routing_key=sys.argv[1],
        body=message,
        properties=pika.BasicProperties(delivery_mode=2))
    print(" [x] Sent %r" % message)
connection.close()
