"""The table of scripts/interop: every client, how it is called, and what has to be stored of what it was given.

`expected` has a pattern for each entry, in order. What a client puts around a message is a pattern as precise as time,
process id and the like allow; the message itself is literal.
"""

import pathlib
import re
import ssl
import sys
from dataclasses import dataclass
from typing import Callable

UUID_IN_TEXT = "see 11111111-2222-4333-8444-555555555555 for more"
# For whatever takes one line of text.
LINES = (
    "plain words",
    "deadbeef-0000 could be more of the token",
    '{"user": "Zoë", "n": 1}',
    UUID_IN_TEXT,
    "  indented,\ttab, trailing blanks  ",
)
# For libraries: line breaks too, and more than a TLS record holds.
MESSAGES = (*LINES, "two\nlines", "long " + "x" * 70_000)
# For syslog daemons, which cut what is longer than their limits.
SYSLOG = (*LINES[:4], "tab\there")

# Packages of all npm cases: they are installed together.
NPM = (
    "r7insight_node@3.3.1",
    "le_node@1.8.0",
    "node-logentries@0.1.4",
    "winston@3.19.0",
    "bunyan@1.8.15",
    "log4js@6.9.1",
)

# Time as a client writes it.
WWW_MMM_DD = r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d UTC \d{4}"
ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3,6})?(?:Z|\+00:00)"
BSD = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"


@dataclass
class Case:
    name: str
    # What is run, from a Run of scripts/interop.
    command: Callable
    # A pattern for each entry.
    expected: list
    over: str = "TCP"
    # What it has to send, and what of it goes to the client's input.
    messages: tuple = LINES
    stdin: Callable = lambda run: ""
    # Its input ends at once, not after the last entry is stored.
    ends: bool = False
    # Where it comes from: programs of the system, packages of Debian, a package of PyPI, one of npm.
    programs: tuple = ()
    debian: tuple = ()
    pip: str = ""
    npm: str = ""
    # Further flags of the engine.
    engine: tuple = ()
    # Runs only if it is named: it needs root, or fetches much.
    only_by_name: bool = False


def literal(messages, before="", after="", newline="\n"):
    """A pattern for each message: its text, between patterns."""
    return [before + re.escape(message.replace("\n", newline)) + after for message in messages]


# --- Programs that send what they read --------------------------------------------------------------------------------


def pipe(name, command, **rest):
    """One that sends its input as it is. The last line has no end."""
    rest.setdefault("stdin", lambda run: run.lines().removesuffix("\n"))
    rest.setdefault("ends", True)
    return Case(name, command, literal(LINES), **rest)


def words(text):
    """A command without surprises; @NAME@ is an attribute of the run."""
    return lambda run: [re.sub("@([a-z]+)@", lambda found: getattr(run, found[1]), word) for word in text.split()]


def whole_lines(run):
    return run.lines()


PIPES = [
    pipe("netcat", words("nc.openbsd -N localhost 10000"), debian=("netcat-openbsd",)),
    pipe("netcat-udp", words("nc.openbsd -u -w 1 localhost 10000"), debian=("netcat-openbsd",), over="UDP"),
    pipe("netcat-auto", words("nc.openbsd -N localhost 80"), debian=("netcat-openbsd",), engine=("--framing=auto",)),
    pipe("ncat", words("ncat localhost 80"), debian=("ncat",)),
    pipe("ncat-crlf", words("ncat --crlf localhost 80"), debian=("ncat",), stdin=whole_lines),
    pipe(
        "ncat-tls",
        words("ncat --ssl-verify --ssl-trustfile @certificate@ --ssl-servername localhost localhost 443"),
        debian=("ncat",),
        over="TLS",
    ),
    pipe("ncat-udp", words("ncat --udp localhost 514"), debian=("ncat",), over="UDP"),
    pipe("socat", words("socat -u STDIN TCP:localhost:514"), debian=("socat",)),
    pipe("socat-crnl", words("socat -u STDIN TCP:localhost:514,crnl"), debian=("socat",), stdin=whole_lines),
    pipe(
        "socat-tls",
        words("socat -u STDIN OPENSSL:localhost:20000,cafile=@certificate@"),
        debian=("socat",),
        over="TLS",
    ),
    pipe("socat-udp", words("socat -u STDIN UDP:localhost:10000"), debian=("socat",), over="UDP"),
    pipe(
        "telnet",
        words("inetutils-telnet localhost 10000"),
        debian=("inetutils-telnet",),
        stdin=whole_lines,
        ends=False,
    ),
    pipe(
        "curl",
        words("curl --silent --show-error telnet://localhost:80"),
        debian=("curl",),
        stdin=whole_lines,
        ends=False,
    ),
    pipe(
        "openssl",
        words("openssl s_client -quiet -no_ign_eof -verify_return_error -CAfile @certificate@ -connect localhost:443"),
        debian=("openssl",),
        over="TLS",
    ),
    pipe(
        "openssl-tls1.2-crlf",
        words("openssl s_client -quiet -no_ign_eof -crlf -tls1_2 -noservername -connect localhost:20000"),
        debian=("openssl",),
        over="TLS",
        stdin=whole_lines,
    ),
    pipe("bash", lambda run: ["bash", "-c", "cat >/dev/tcp/localhost/10000"], debian=("bash",)),
    pipe(
        "bash-udp",
        # A datagram for each line.
        lambda run: ["bash", "-c", 'while IFS= read -r line; do echo "$line"; done >/dev/udp/localhost/10000'],
        debian=("bash",),
        over="UDP",
        stdin=whole_lines,
    ),
]


# --- Syslog -----------------------------------------------------------------------------------------------------------


def logger(name, flags, before, **rest):
    """logger(1): a message for each line of its input, in one connection, so that they keep their order."""
    command = words(f"logger --server localhost --tag web {flags}")
    return Case(name, command, literal(LINES, before), stdin=whole_lines, ends=True, debian=("bsdutils",), **rest)


RFC3164 = rf"<13>{BSD} interop web: "
RFC5424 = rf"<13>1 {ISO} interop web - - \[timeQuality tzKnown=\"1\" isSynced=\"[01]\"(?: syncAccuracy=\"\d+\")?\] "

# A daemon in the foreground, fed through the socket that stands for /dev/log until the input ends: the number of its
# command's words, the words, the messages.
DAEMON = """
"${@:2:$1}" &
shift $(($1 + 1))
while [[ ! -S log ]]; do sleep 0.05; done
for message; do logger --socket log --tag web -- "$message"; done
cat
kill %1
wait
"""


def daemon(start):
    def command(run):
        words = start(run)
        return ["bash", "-c", DAEMON, "-", str(len(words)), *words, *run.messages]

    return command


def rsyslog(name, action, over="TCP", **rest):
    """rsyslog with the vendor's template; tabs arrive escaped."""

    def start(run):
        configuration = run.template("rsyslog.conf", action=action)
        modules = run.client.part("usr/lib/*-linux-gnu/rsyslog")
        pid = f"{run.folder}/pid"
        return [run.client.part("usr/sbin/rsyslogd"), "-n", "-f", configuration, "-i", pid, "-M", modules]

    expected = [pattern.replace("\\\t", "#011") for pattern in literal(SYSLOG, "interop web: ")]
    packages = ("rsyslog", "rsyslog-gnutls", "rsyslog-openssl")
    return Case(name, daemon(start), expected, over, SYSLOG, debian=packages, **rest)


RSYSLOG_TLS = (
    'type="omfwd" target="localhost" protocol="tcp" template="token" StreamDriverMode="1" '
    'StreamDriverAuthMode="x509/name" StreamDriverPermittedPeers="localhost" '
)


def syslog_ng(name, destination, before=rf"{ISO} interop web: ", over="TCP", **rest):
    def start(run):
        configuration = run.template("syslog-ng.conf", destination=destination)
        modules = run.client.part("usr/lib/syslog-ng/*")
        return [
            run.client.part("usr/sbin/syslog-ng"), "--foreground", "--no-caps", "--cfgfile", configuration,
            "--pidfile", f"{run.folder}/pid", "--control", f"{run.folder}/control",
            "--persist-file", f"{run.folder}/persist", "--module-path", modules,
        ]  # fmt: skip

    return Case(name, daemon(start), literal(SYSLOG, before), over, SYSLOG, debian=("syslog-ng-core",), **rest)


SYSLOG_NG_TEMPLATE = 'template("@TOKEN@ $ISODATE $HOST $MSGHDR$MSG\\n")'

SYSLOGS = [
    logger("logger-tcp", "--port 514 --tcp --rfc3164", RFC3164),
    logger("logger-octet", "--port 514 --tcp --octet-count --rfc5424", RFC5424, engine=("--framing=octet",)),
    logger("logger-octet-auto", "--port 10000 --tcp --octet-count", RFC5424, engine=("--framing=auto",)),
    logger("logger-udp", "--udp --rfc3164", RFC3164, over="UDP"),
    rsyslog("rsyslog", 'type="omfwd" target="localhost" port="10000" protocol="tcp" template="token"'),
    rsyslog(
        "rsyslog-octet",
        'type="omfwd" target="localhost" port="514" protocol="tcp" template="token" TCP_Framing="octet-counted"',
        engine=("--framing=octet",),
    ),
    rsyslog(
        "rsyslog-octet-auto",
        'type="omfwd" target="localhost" port="514" protocol="tcp" template="token" TCP_Framing="octet-counted"',
        engine=("--framing=auto",),
    ),
    rsyslog("rsyslog-udp", 'type="omfwd" target="localhost" port="514" protocol="udp" template="token"', "UDP"),
    rsyslog("rsyslog-tls-gnutls", RSYSLOG_TLS + 'port="443" StreamDriver="gtls"', "TLS"),
    rsyslog("rsyslog-tls-openssl", RSYSLOG_TLS + 'port="20000" StreamDriver="ossl"', "TLS"),
    syslog_ng("syslog-ng", f'network("localhost" port(80) transport("tcp") {SYSLOG_NG_TEMPLATE})'),
    syslog_ng("syslog-ng-udp", f'network("localhost" port(514) transport("udp") {SYSLOG_NG_TEMPLATE})', over="UDP"),
    syslog_ng(
        "syslog-ng-tls",
        'network("localhost" port(443) transport("tls") tls(ca-file("@CERTIFICATE@") peer-verify(required-trusted)) '
        f"{SYSLOG_NG_TEMPLATE})",
        over="TLS",
    ),
    syslog_ng(
        "syslog-ng-octet",
        'syslog("localhost" port(514) transport("tcp") template("@TOKEN@ $MSG"))',
        rf"<13>1 {ISO} interop web - - \[meta sequenceId=\"\d+\"\] ",
        engine=("--framing=octet",),
    ),
]


# --- Libraries --------------------------------------------------------------------------------------------------------


def python(name, pip, *how, **rest):
    """A handler of Python's logging; the standard format of the library, which puts nothing behind the token."""
    command = lambda run: [sys.executable, str(run.programs / "python.py"), *how]
    expected = literal(MESSAGES, rf"{WWW_MMM_DD} : INFO, ", newline="\u2028")
    return Case(name, command, expected, messages=MESSAGES, pip=pip, **rest)


def node(name, npm, *how, expected, **rest):
    command = lambda run: ["node", str(run.programs / "node.js"), *how]
    return Case(name, command, expected, messages=MESSAGES, npm=npm, programs=("node", "npm"), **rest)


def json_text(text):
    """How JavaScript writes a string."""
    return re.escape(text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t"))


INFO = literal(MESSAGES, "info ", newline="\u2028")
TIMED = literal(MESSAGES, rf"{ISO} info ", newline="\u2028")
BUNYAN = [
    r'\{"name":"shop","hostname":"interop","pid":\d+,"level":30,"msg":"'
    + json_text(message)
    + rf'","time":"{ISO}","v":0,"_level":"info"\}}'
    for message in MESSAGES
]


def java(name, program, jars, expected, messages=MESSAGES, **rest):
    """A Java program, compiled as it starts, with its configuration beside it."""

    def command(run):
        path = ":".join(run.client.part(f"usr/share/java/{jar}.jar") for jar in jars)
        # Java reads no PEM as a trust store.
        trust = "keytool -importcert -noprompt -alias engine -file cert.pem -keystore trust.p12 -storepass changeit"
        run.write("cert.pem", pathlib.Path(run.certificate).read_text())
        run.template("log4j2.xml")
        run.template("logback.xml")
        java = f'exec java -cp .:{path} {run.programs}/{program}.java "$@"'
        return ["bash", "-c", f"{trust} -storetype PKCS12 && {java}", "-", name, *messages]

    packages = ("liblog4j2-java",) if program == "Log4j" else ("liblogback-java",)
    return Case(name, command, expected, messages=messages, debian=packages, programs=("javac",), **rest)


def monolog(name, *how, over="TCP"):
    """Monolog's own handlers; its default format has line breaks replaced by blanks."""

    def command(run):
        return [
            run.client.part("usr/bin/php8*"), "-d", f"include_path={run.client.part('usr/share/php')}",
            str(run.programs / "monolog.php"), *how,
        ]  # fmt: skip

    expected = literal(MESSAGES, rf"\[{ISO}\] shop\.INFO: ", r" \[\] \[\]", newline=" ")
    return Case(name, command, expected, over, MESSAGES, debian=("php-monolog", "php-cli"))


def ruby(name, how, over="TCP"):
    def command(run):
        return [run.client.part("usr/bin/ruby3.?"), str(run.programs / "logger.rb"), how]

    return Case(name, command, literal(MESSAGES, "INFO ", newline="\u2028"), over, MESSAGES, debian=("ruby",))


def docker(name, address, over="TCP"):
    """Its syslog driver, with the token for a tag."""
    command = lambda run: [str(run.programs / "docker.sh"), address, *run.messages]
    expected = literal(LINES, rf"<30>{BSD} interop \[\d+\]: ")
    return Case(name, command, expected, over, debian=("docker.io", "busybox-static"), only_by_name=True)


LIBRARIES = [
    python("r7insight_python", "r7insight_python==1.0.1", "r7insight"),
    python("r7insight_python-tls", "r7insight_python==1.0.1", "r7insight", "tls", over="TLS"),
    python("logentries", "logentries==0.17", "logentries"),
    # It calls ssl.wrap_socket, which Python 3.12 and newer lack.
    *(
        [python("logentries-tls", "logentries==0.17", "logentries", "tls", over="TLS")]
        if hasattr(ssl, "wrap_socket")
        else []
    ),
    python("logentrieslogger", "logentrieslogger==0.2.1", "logentrieslogger"),
    node("r7insight_node", "r7insight_node@3.3.1", "r7insight", expected=INFO),
    node("r7insight_node-tls", "r7insight_node@3.3.1", "r7insight", "tls", expected=INFO, over="TLS"),
    node("le_node", "le_node@1.8.0", "le_node", expected=INFO),
    node("le_node-tls", "le_node@1.8.0", "le_node", "tls", expected=INFO, over="TLS"),
    node("node-logentries", "node-logentries@0.1.4", "node-logentries", expected=TIMED),
    node("node-logentries-tls", "node-logentries@0.1.4", "node-logentries", "tls", expected=TIMED, over="TLS"),
    node("winston", "winston@3.19.0", "winston", expected=INFO),
    node("winston-tls", "winston@3.19.0", "winston", "tls", expected=INFO, over="TLS"),
    node("bunyan", "bunyan@1.8.15", "bunyan", expected=BUNYAN),
    node("log4js", "log4js@6.9.1", "log4js", expected=literal(MESSAGES, "INFO ", newline="\u2028")),
    java("log4j2", "Log4j", ("log4j-api", "log4j-core"), literal(MESSAGES, "INFO ", newline="\u2028")),
    java("log4j2-tls", "Log4j", ("log4j-api", "log4j-core"), literal(MESSAGES, "INFO ", newline="\u2028"), over="TLS"),
    java(
        "logback-udp",
        "Logback",
        ("slf4j-api", "logback-core", "logback-classic"),
        literal(LINES, rf"<14>{BSD} interop INFO "),
        LINES,
        over="UDP",
    ),
    monolog("monolog-insightops", "insightops"),
    monolog("monolog-insightops-tls", "insightops", "tls", over="TLS"),
    monolog("monolog-logentries", "logentries"),
    monolog("monolog-logentries-tls", "logentries", "tls", over="TLS"),
    ruby("ruby-logger", "tcp"),
    ruby("ruby-logger-tls", "tls", over="TLS"),
]

CASES = [
    *PIPES,
    *SYSLOGS,
    *LIBRARIES,
    docker("docker", "tcp://localhost:10000"),
    docker("docker-tls", "tcp+tls://localhost:443", "TLS"),
]
