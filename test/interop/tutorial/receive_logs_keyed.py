"""Prints the log lines that its binding keys select: receive_logs_keyed.py direct|topic KEY..."""
import sys

from broker import connect

kind, binding_keys = sys.argv[1], sys.argv[2:]
connection = connect()
channel = connection.channel()
channel.exchange_declare(exchange=kind + '_logs', exchange_type=kind)
result = channel.queue_declare(queue='', exclusive=True)
queue_name = result.method.queue
for binding_key in binding_keys:
    channel.queue_bind(exchange=kind + '_logs', queue=queue_name, routing_key=binding_key)


def callback(ch, method, properties, body):
    print(" [x] %s:%s" % (method.routing_key, body.decode()), flush=True)


channel.basic_consume(queue=queue_name, on_message_callback=callback, auto_ack=True)
print(' [*] Waiting', flush=True)
channel.start_consuming()
