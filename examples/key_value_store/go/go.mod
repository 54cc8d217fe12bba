module github.com/pillion/pillion/examples/key_value_store/go

go 1.23

require github.com/pillion/pillion/clients/go v0.1.0

require (
	github.com/fxamacker/cbor/v2 v2.9.6 // indirect
	github.com/x448/float16 v0.8.4 // indirect
)

// Here the client is the one beside the examples; without this line it is the published one.
replace github.com/pillion/pillion/clients/go => ../../../clients/go
