# make check is the gate: everything that needs no other machine, in minutes.
GO       ?= go
FUZZTIME ?= 1m
TESTTIME ?= 3m

# Tags that hide files from a plain build, and the directories that have such files.
TAGS = interop lockdep soak
tagged = $$(git grep -lE "^//go:build .*\b$$tag\b" -- '*.go' | xargs -n1 dirname | sort -u | sed 's|^|./|')

.PHONY: all build check fmt vet staticcheck tidy test race lockdep cross fuzz bench interop matrix soak

all: build

build:
	$(GO) build -o bin/fabrid ./cmd/fabrid

check: fmt vet staticcheck tidy test race lockdep cross

fmt:
	@out=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$out" ]; then echo "gofmt -w these:"; echo "$$out"; exit 1; fi

vet:
	$(GO) vet ./...
	@set -e; for tag in $(TAGS); do echo $(GO) vet -tags $$tag $(tagged); $(GO) vet -tags $$tag $(tagged); done

staticcheck:
	$(GO) tool staticcheck ./...
	@set -e; for tag in $(TAGS); do echo $(GO) tool staticcheck -tags $$tag $(tagged); $(GO) tool staticcheck -tags $$tag $(tagged); done

tidy:
	$(GO) mod tidy -diff

# The gate runs the long suites in their short, most parallel form, three times; go test ./... runs all of them.
# make vet has looked at what they would have vet look at.
SHORT = -vet=off -short -shuffle=on -timeout $(TESTTIME)

test:
	$(GO) test $(SHORT) ./...

race:
	$(GO) test -race $(SHORT) ./...

lockdep:
	$(GO) test -tags lockdep $(SHORT) ./...

# s390x is big-endian.
cross:
	@set -e; for arch in arm64 s390x; do echo GOARCH=$$arch $(GO) vet ./...; \
	GOOS=linux GOARCH=$$arch $(GO) build -o /dev/null ./cmd/fabrid; GOOS=linux GOARCH=$$arch $(GO) vet ./...; \
	GOOS=linux GOARCH=$$arch $(GO) vet -tags lockdep ./lockdep; done

# Every Fuzz function for FUZZTIME. What they find is a file in testdata/fuzz.
fuzz:
	test/fuzz $(FUZZTIME)

# fabrid beside bare UDP, each end on a core of its own. Keep the machine quiet.
bench:
	$(GO) run ./test/bench

# fabrid beside Linux, in virtual machines. Needs root and Debian: test/interop/README.md.
interop:
	test/interop/run

# The same with every kernel, MTU, family and backend, through bad networks and crashes: half an hour.
matrix:
	test/interop/run matrix

# A virtual day of hosts that come and go, through loss and restarts, any two causes of a queue's end at once, and storms
# of a thousand hosts, which measure: keep the machine quiet.
.PHONY: soak
soak:
	$(GO) test -run 'TestTwoCauses|TestScenarios' -timeout 2h ./test/sim -soak
	$(GO) test -tags soak -v -timeout 2h ./test/soak
