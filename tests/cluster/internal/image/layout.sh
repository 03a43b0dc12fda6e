#!/bin/sh
# Lays out the file system of an image: the programs with all they are linked against, and the files below
# /etc that a C library and TLS clients read. Both the images of the tests and those of the Dockerfile are
# made with it. Arguments: the folder, then the programs.
set -eu
umask 022

root=$1
shift

mkdir -p "$root/etc/ssl/certs" "$root/tmp" "$root/usr/local/bin"
chmod 1777 "$root/tmp"

for program; do
    installed=$root/usr/local/bin/${program##*/}
    # Without its debugging information, which is most of a debug build.
    if command -v strip >/dev/null; then
        strip --strip-debug -o "$installed" "$program"
    else
        cp "$program" "$installed"
    fi
    chmod 755 "$installed"
    # Fails for a static program, which needs nothing.
    libraries=$(LC_ALL=C ldd "$program" 2>/dev/null) || continue
    if missing=$(echo "$libraries" | grep 'not found'); then
        echo "$program: $missing" >&2
        exit 1
    fi
    # Each where this host's loader finds it, so the image's finds it there too.
    echo "$libraries" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done
done

cat >"$root/etc/passwd" <<END
root:x:0:0:root:/:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/:/sbin/nologin
END
cat >"$root/etc/group" <<END
root:x:0:
nogroup:x:65534:
nonroot:x:65532:
END
cat >"$root/etc/nsswitch.conf" <<END
passwd: files
group: files
hosts: files dns
END

for trusted in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
    if [ -e "$trusted" ]; then
        cp -L "$trusted" "$root/etc/ssl/certs/ca-certificates.crt"
        break
    fi
done
