"""Prints messages whose headers match: receive_headers.py all|any name=value..."""
import sys

from broker import connect

connection = connect()
channel = connection.channel()
channel.exchange_declare(exchange='headers_logs', exchange_type='headers')
result = channel.queue_declare(queue='', exclusive=True)
queue_name = result.method.queue
arguments = dict(pair.split('=', 1) for pair in sys.argv[2:])
arguments['x-match'] = sys.argv[1]
channel.queue_bind(exchange='headers_logs', queue=queue_name, arguments=arguments)


def callback(ch, method, properties, body):
    print(" [x] %s" % body.decode(), flush=True)


channel.basic_consume(queue=queue_name, on_message_callback=callback, auto_ack=True)
print(' [*] Waiting', flush=True)
channel.start_consuming()
