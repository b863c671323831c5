package broker

// What the tests outside the package need of its inside.

const (
	CloseTimeout   = closeTimeout
	FreshPoll      = freshPoll
	MaxReturnBytes = maxReturnBytes
)

var (
	IsKind           = isKind
	DecodeTable      = decodeTable
	EncodeProperties = properties
	ParseOptions     = options
)

// Unsettled returns how many deliveries of the channel are not settled.
func (ch *Channel) Unsettled() int { return ch.unacked.count }
