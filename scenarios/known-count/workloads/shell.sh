#!/bin/sh
# Programs by path, by name, by script, by another script, through find, xargs and nice; subshells, pipes, redirections,
# here-documents; names made, moved, linked, removed; and failures of each.
for i in 1 2 3; do /bin/true; (id >/dev/null) & done; wait
printf '#!/bin/sh\nexec /bin/echo from a script\n' >inner.sh
chmod +x inner.sh
./inner.sh
find /etc/cron.d -name '*' -exec basename {} \;
echo a b c | xargs -n1 printf 'x %s\n'
/nonexistent/program; nosuchprogram; /etc/passwd; ./inner
env A=1 nice ls / | sort | uniq -c | tail -1
(cd / && (exit 3)) || echo "subshell: $?"
cat <<HERE >document
a document
HERE
echo one >list; echo two >>list; : >empty; echo x 2>/dev/null >&2
echo no >/etc/refused; echo no >/nonexistent/x
mkdir a a/b a; mkdir -p a/c/d; mkdir /refused
mv list a/list; mv a/list 'a/list with a "quote"'; mv nothing something
ln -s nowhere link; ln -s nowhere link; ln document hard; ln nothing other
ln -sf elsewhere link
cp document copy; cp -p copy a/; cp copy /etc/copy
printf 'name\n' >"$(printf 'new\nline')"
printf 'octal\n' >"$(printf 'b\303\244r')"
chmod 600 copy; chmod u+x,g-w copy; chmod 644 /etc/passwd
mkfifo fifo; cat fifo & echo through >fifo; wait
mktemp ./tmp.XXXXXX; mktemp -d ./tmp.XXXXXX
touch copy new; touch -d 2020-01-01 new
dd if=/dev/zero of=zeros bs=512 count=3 2>/dev/null
rmdir a/b; rmdir a; rm nothing; rm -f nothing; rm -rf a
find . -name 'tmp.*' -delete
tar cf all.tar document copy; mkdir out; tar xf all.tar -C out
sed -i 's/a/b/' document
cd out && rm ../copy document && cd .. && rm out/copy
exec /bin/true last
