"""Publishes with headers: emit_headers.py TEXT name=value..."""
import sys

import pika

from broker import connect

connection = connect()
channel = connection.channel()
channel.exchange_declare(exchange='headers_logs', exchange_type='headers')
headers = dict(pair.split('=', 1) for pair in sys.argv[2:])
channel.basic_publish(exchange='headers_logs', routing_key='', body=sys.argv[1],
                      properties=pika.BasicProperties(headers=headers))
print(" [x] Sent %r %r" % (sys.argv[1], headers))
connection.close()
