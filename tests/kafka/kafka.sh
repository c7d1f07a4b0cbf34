#!/usr/bin/env bash
# Runs Apache Kafka for the tests: one KRaft node on loopback, in the foreground, until it is signalled.
#
# Usage: kafka.sh DATA_DIR [PORT] [key=value ...]
#
#   DATA_DIR    made and formatted when new; given again, the node goes on with what it holds
#   PORT        for clients, 9092 when left out; PORT+1 is the controller's
#   key=value   server properties, which win over those below
#
# Needs Java 17 or newer and Kafka's jars in libs/ beside this script (`make kafka`), or in the folder KAFKA_LIBS names.
# KAFKA_HEAP (512m), KAFKA_LOG_LEVEL (WARN) and KAFKA_JIT (4; 1 starts faster and runs slower) are read from the
# environment. With a setting controller.quorum.voters it is a node of a cluster, whose members all have that same one.
set -euo pipefail

refuse() { echo "kafka.sh: $1" >&2; exit 2; }

[[ $# -ge 1 && $1 != -* ]] || refuse "no data directory given; usage: kafka.sh DATA_DIR [PORT] [key=value ...]"
data_dir=$1
shift
port=9092
if [[ ${1-} =~ ^[0-9]+$ ]]; then
  port=$1
  shift
fi
for setting in "$@"; do
  [[ $setting == *=* ]] || refuse "'$setting' is not a server property; write key=value"
done

libs=${KAFKA_LIBS:-$(dirname "${BASH_SOURCE[0]}")/libs}
compgen -G "$libs/kafka_*.jar" >/dev/null || refuse "no Kafka jars in $libs; run 'make kafka' or set KAFKA_LIBS"
command -v java >/dev/null || refuse "no java on the PATH; install Java 17 or newer"

mkdir -p "$data_dir"
data_dir=$(cd "$data_dir" && pwd)
properties=$data_dir/node.properties
logging=$data_dir/log4j2.properties

# One replica of everything, few partitions for the internal topics and no wait for a first member to join: a test
# machine's settings. The short session frees the node's own registration soon after a kill.
cat >"$properties" <<PROPERTIES
node.id=1
process.roles=broker,controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
log.dirs=$data_dir/log
num.partitions=4
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
message.max.bytes=16777216
PROPERTIES
quorum=controller.quorum.bootstrap.servers=127.0.0.1:$((port + 1))
[[ " $*" == *" controller.quorum.voters="* ]] && quorum=
printf '%s\n' "$quorum" "$@" >>"$properties"

cat >"$logging" <<LOGGING
status = error
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1}: %m%n
rootLogger.level = ${KAFKA_LOG_LEVEL:-WARN}
rootLogger.appenderRef.stderr.ref = stderr
LOGGING

jvm=("-Xmx${KAFKA_HEAP:-512m}" -XX:+UseSerialGC "-XX:TieredStopAtLevel=${KAFKA_JIT:-4}")
run=(java "${jvm[@]}" "-Dlog4j2.configurationFile=$logging" -cp "$libs/*")
if [[ ! -f $data_dir/log/meta.properties ]]; then
  how=(--standalone --cluster-id "$("${run[@]}" kafka.tools.StorageTool random-uuid)")
  [[ -n $quorum ]] || how=(--cluster-id dGVzdHMtc2hhcmUtb25lIQ)
  "${run[@]}" kafka.tools.StorageTool format "${how[@]}" --config "$properties" >&2
fi
exec "${run[@]}" kafka.Kafka "$properties"
