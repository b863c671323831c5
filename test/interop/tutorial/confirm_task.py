"""Publishes numbered persistent tasks with publisher confirms: confirm_task.py QUEUE COUNT"""
import sys

import pika

from broker import connect

connection = connect()
channel = connection.channel()
channel.queue_declare(queue=sys.argv[1], durable=True)
channel.confirm_delivery()
for i in range(int(sys.argv[2])):
    channel.basic_publish(
        exchange='',
        routing_key=sys.argv[1],
        body='task %d' % i,
        properties=pika.BasicProperties(delivery_mode=2),
        mandatory=True)
print(" [x] Confirmed %s" % sys.argv[2])
connection.close()
