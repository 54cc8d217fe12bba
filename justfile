# What one does here, one line each. `just` lists it.

# List the recipes.
default:
    @just --list

# Build the binary for use.
build:
    cargo build --release

# Run every test.
test *ARGS:
    cargo test --workspace {{ARGS}}

# Check the invariants that the text can show.
tidy:
    cargo test --test tidy

# Run each client's own tests, in its own language.
clients *NAMES:
    clients/test {{NAMES}}

# Play more rounds of the simulation, or one seed: `PILLION_SEED=7 just sim`.
sim ROUNDS="10000":
    PILLION_ROUNDS={{ROUNDS}} cargo test --test sim

# List anew what a node runs, for the linker (needs valgrind).
order:
    link/order.py

# Put the code into its format.
fmt:
    cargo fmt --all

# Lint as strictly as the CI does.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Check licences, bans and sources of what we depend on.
deny:
    cargo deny check licenses bans sources

# Read the documentation of the code.
doc:
    cargo doc --workspace --no-deps --open

# Start a node that logs much and keeps to itself.
up *ARGS:
    cargo run -- up --strategy local --log-level debug {{ARGS}}

# Everything a change must pass.
ci:
    .ci/run
