"""Gets everything that is in a queue, one message at a time: drain.py QUEUE"""
import sys

from broker import connect

connection = connect()
channel = connection.channel()
channel.queue_declare(queue=sys.argv[1], durable=True)
while True:
    method, properties, body = channel.basic_get(queue=sys.argv[1])
    if method is None:
        break
    print(" [x] Got %r mode=%s" % (body.decode(), properties.delivery_mode))
    channel.basic_ack(method.delivery_tag)
print(' [x] Empty')
connection.close()
