# What a developer does here; each recipe is a script, so that just is not needed.

# List the recipes
default:
    @just --list --unsorted

# Show a microVM survive the loss of its host (--stay leaves the cluster up)
demo *args:
    scripts/demo {{args}}

# Set up, lint, and run every test, real microVMs included: what CI runs
test *flags:
    scripts/test {{flags}}

# Check format, vet, linter and generated code
lint:
    scripts/lint

# Format the Go code
fmt:
    scripts/fmt

# Make the protobuf code again (--check: fail when it is stale)
generate *args:
    scripts/generate {{args}}

# Get QEMU, a kernel and our guest (--check: only say what is there)
setup *args:
    scripts/setup {{args}}

# Build the programs into ./bin
build:
    scripts/build

# A three-node cluster on this machine, to play with
up *flags: build
    bin/blixard up {{flags}}

# Run the benchmarks (docs/benchmarks.md)
bench pattern=".":
    scripts/bench {{pattern}}

# The simulator for so many hours, with a report (or: double [SEEDS], kills [ROUNDS])
soak *args:
    scripts/soak {{args}}

# Plant every known bug, and see who finds it (--few: what CI plants)
mutants *args:
    scripts/mutants {{args}}

# One seed of the simulator, in words
sim seed="1":
    go test ./sim -seed={{seed}} -v
