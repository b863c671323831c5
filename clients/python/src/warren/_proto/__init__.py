"""What protoc has made of the API's definitions (proto/generate)."""
