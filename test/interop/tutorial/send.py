"""Hello world, the sending side: send.py [text]"""
import sys

from broker import connect

connection = connect()
channel = connection.channel()
channel.queue_declare(queue='hello')
message = ' '.join(sys.argv[1:]) or 'Hello World!'
channel.basic_publish(exchange='', routing_key='hello', body=message)
print(" [x] Sent %r" % message)
connection.close()
