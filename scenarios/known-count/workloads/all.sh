#!/bin/sh
# The task: every workload under strace, then what strace saw, to the console.
here=/opt/scenario/workloads
sh=/bin/sh
$sh $here/traced.sh shell $sh $here/shell.sh
$sh $here/traced.sh python /usr/bin/python3 $here/tests.py
$sh $here/traced.sh build $sh $here/build.sh
$sh $here/traced.sh server /usr/bin/python3 $here/server.py
$sh $here/traced.sh java /usr/bin/java -jar $here/work.jar
/opt/scenario/bin/as-root $sh $here/traced.sh package $sh $here/package.sh
cd /tmp/truth
for file in *.before *.log *.out; do
    echo "=== $file"
    gzip -9 <"$file" | base64
    echo "=== end"
done
