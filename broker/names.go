package broker

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"strings"

	"github.com/warrenmq/warren/raftfsm/queue"
)

const (
	reservedPrefix   = "amq."
	generatedQueue   = "amq.gen-"
	generatedTag     = "amq.ctag-"
	replyToName      = "amq.rabbitmq.reply-to"
	replyToPrefix    = replyToName + "."
	replyToTextBytes = 8 + 8 // queue id, random key
)

// generate returns the prefix and 22 characters that nobody can guess.
func generate(prefix string) string {
	var random [16]byte
	rand.Read(random[:]) // never fails
	return prefix + base64.RawURLEncoding.EncodeToString(random[:])
}

// randomID returns 48 random bits for a queue id.
func randomID() uint64 {
	var random [8]byte
	rand.Read(random[:])
	return binary.LittleEndian.Uint64(random[:]) & (1<<48 - 1)
}

// replyToAddress is the name under which replies for the queue come: its id, sealed with random bits of the same.
func replyToAddress(id queue.QueueID) string {
	var b [replyToTextBytes]byte
	rand.Read(b[8:])
	binary.BigEndian.PutUint64(b[:8], uint64(id)^binary.BigEndian.Uint64(b[8:]))
	return replyToPrefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// parseReplyTo returns the queue of a name made by replyToAddress.
func parseReplyTo(name []byte) (queue.QueueID, bool) {
	if len(name) <= len(replyToPrefix) || string(name[:len(replyToPrefix)]) != replyToPrefix {
		return 0, false
	}
	text := name[len(replyToPrefix):]
	var b [replyToTextBytes + 2]byte
	if base64.RawURLEncoding.DecodedLen(len(text)) != replyToTextBytes {
		return 0, false
	}
	if n, err := base64.RawURLEncoding.Decode(b[:], text); err != nil || n != replyToTextBytes {
		return 0, false
	}
	id := queue.QueueID(binary.BigEndian.Uint64(b[:8]) ^ binary.BigEndian.Uint64(b[8:]))
	return id, id.Shard().IsLocal()
}

// cleanName takes the line breaks out of a name, as RabbitMQ does before it looks at it.
func cleanName(name string) string {
	if !strings.ContainsAny(name, "\r\n") {
		return name
	}
	return strings.NewReplacer("\r", "", "\n", "").Replace(name)
}

func reserved(name string) bool { return strings.HasPrefix(name, reservedPrefix) }

// isReplyTo tells whether a name belongs to direct reply-to.
func isReplyTo(name string) bool {
	return name == replyToName || strings.HasPrefix(name, replyToPrefix)
}
