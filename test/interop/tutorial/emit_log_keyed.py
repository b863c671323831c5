"""Emits a log line under a routing key: emit_log_keyed.py direct|topic KEY TEXT..."""
import sys

from broker import connect

kind, routing_key = sys.argv[1:3]
connection = connect()
channel = connection.channel()
channel.exchange_declare(exchange=kind + '_logs', exchange_type=kind)
message = ' '.join(sys.argv[3:]) or 'Hello World!'
channel.basic_publish(exchange=kind + '_logs', routing_key=routing_key, body=message)
print(" [x] Sent %r:%r" % (routing_key, message))
connection.close()
