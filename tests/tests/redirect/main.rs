//! Which connections come to the proxy: `weir-init` in network namespaces, with somebody in the place
//! of the proxy who tells what comes to him.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    process::{Command, ExitCode, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use libtest_mimic::{Arguments, Completion, Trial};
use socket2::{Domain, Socket, Type};
use weir_tests::{
    binaries,
    eventually::DEADLINE,
    net::{self, Namespace, Owner, original_destination, peer, query},
};

mod stay;

use stay::*;

macro_rules! suite {
    ($($test:ident),+ $(,)?) => {
        fn main() -> ExitCode {
            let missing = net::missing().or_else(no_nft);
            let trials = [$((stringify!($test), $test as fn())),+].into_iter().map(|(name, test)| {
                let missing = missing.clone();
                Trial::ignorable_test(name, move || match missing {
                    None => { test(); Ok(Completion::Completed) }
                    Some(why) => Ok(Completion::ignored_with(why)),
                })
            });
            libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
        }
    };
}

suite! {
    what_is_sent_comes_to_the_outbound_port_with_its_destination,
    what_arrives_comes_to_the_inbound_port_with_its_destination,
    what_stays_in_the_pod_is_not_captured,
    the_proxy_sends_without_being_captured_but_to_its_own_workload,
    who_calls_the_proxys_captured_ports_from_outside_is_refused,
    ports_of_the_proxy_that_are_its_own_are_reached_as_they_are,
    excluded_ports_ranges_and_interfaces_bypass_the_proxy,
    included_ports_are_captured_beside_a_list_of_ranges,
    only_listed_ports_and_ranges_are_captured,
    only_listed_groups_are_captured,
    a_loopback_range_that_is_included_is_captured,
    what_is_forwarded_is_untouched_and_what_is_rerouted_is_outbound,
    with_tproxy_the_application_sees_the_client,
    dns_queries_come_to_the_proxy_and_its_answers_from_the_server_that_was_asked,
    a_port_can_be_used_for_queries_by_the_application_and_by_the_proxy,
    applying_twice_leaves_the_same_rules,
    applying_while_connections_come_misses_none,
    what_is_printed_is_what_is_programmed,
    removing_leaves_nothing_behind,
    changing_from_tproxy_leaves_no_routes,
    a_value_without_meaning_leaves_the_old_rules,
    a_namespace_without_ipv6_is_no_error,
    the_capability_to_administer_the_network_is_enough_and_is_asked_for,
    a_namespace_is_programmed_from_outside,
    a_validation_tells_whether_connections_are_captured,
    rules_that_cannot_be_validated_are_not_left_behind,
    who_stays_has_no_privileges_left_and_ends_when_it_is_told,
    waiting_ends_when_there_are_rules_and_at_once_where_nobody_can_know,
    who_cannot_program_rules_does_not_stay,
}

/// Why there is nothing to compare rules with, or no kernel for them.
fn no_nft() -> Option<String> {
    match Command::new("nft").args(["list", "tables"]).output() {
        Err(error) => Some(format!("no program nft: {error}")),
        Ok(listed) if !listed.status.success() => Some(format!("nft: {}", text(&listed.stderr))),
        Ok(_) => None,
    }
}

/// A pod with a neighbour who is also the way out.
///
/// ```text
/// neighbour  10.77.0.1, fd77::1  -- eth0 --  10.77.0.2, fd77::2  pod
///            10.78.0.1           -- eth1 --  10.78.0.2
///            10.88.0.1, fd88::1: somewhere outside
/// ```
struct Pod {
    pod: Namespace,
    neighbour: Namespace,
}

impl Pod {
    /// With an application on ports 80, 81 and 22, as the neighbour has it.
    fn new() -> Self {
        let (pod, neighbour) = (Namespace::new("pod"), Namespace::new("out"));
        let addresses = ["10.77.0.1/24", "fd77::1/64"];
        neighbour.link(("eth0", &addresses), &pod, ("eth0", &["10.77.0.2/24", "fd77::2/64"]));
        neighbour.link(("eth1", &["10.78.0.1/24"]), &pod, ("eth1", &["10.78.0.2/24"]));
        neighbour.ip(&["address", "add", "10.88.0.1/32", "dev", "lo"]);
        neighbour.ip(&["address", "add", "fd88::1/128", "dev", "lo", "nodad"]);
        pod.ip(&["route", "add", "default", "via", "10.77.0.1"]);
        pod.ip(&["-6", "route", "add", "default", "via", "fd77::1"]);
        for port in [22, 80, 81] {
            pod.answer(port, |connection| format!("app, from {}", peer(connection).ip()));
            neighbour.answer(port, |_| "outside".into());
        }
        Self { pod, neighbour }
    }

    /// With rules, and somebody on the ports they redirect to.
    fn captured(flags: &[&str]) -> Self {
        let pod = Self::new();
        for port in [15001, 15006] {
            pod.pod.answer(port, move |connection| {
                format!("{port} for {}", original_destination(connection))
            });
        }
        pod.init(flags);
        pod
    }

    fn init(&self, flags: &[&str]) -> Output {
        let output = init(&self.pod, flags);
        assert!(output.status.success(), "weir-init {flags:?}: {}", text(&output.stderr));
        output
    }

    fn app_asks(&self, to: &str) -> String {
        self.pod.ask(Owner::APP, to)
    }

    fn proxy_asks(&self, to: &str) -> String {
        self.pod.ask(Owner::PROXY, to)
    }

    fn neighbour_asks(&self, to: &str) -> String {
        self.neighbour.ask(Owner::ROOT, to)
    }
}

fn what_is_sent_comes_to_the_outbound_port_with_its_destination() {
    let pod = Pod::captured(&[]);
    assert_eq!(pod.app_asks("10.88.0.1:80"), "15001 for 10.88.0.1:80");
    assert_eq!(pod.app_asks("10.77.0.1:22"), "15001 for 10.77.0.1:22");
    assert_eq!(pod.app_asks("[fd88::1]:80"), "15001 for [fd88::1]:80");
}

fn what_arrives_comes_to_the_inbound_port_with_its_destination() {
    let pod = Pod::captured(&[]);
    assert_eq!(pod.neighbour_asks("10.77.0.2:80"), "15006 for 10.77.0.2:80");
    assert_eq!(pod.neighbour_asks("10.78.0.2:22"), "15006 for 10.78.0.2:22");
    assert_eq!(pod.neighbour_asks("[fd77::2]:80"), "15006 for [fd77::2]:80");
}

fn what_stays_in_the_pod_is_not_captured() {
    let pod = Pod::captured(&[]);
    assert_eq!(pod.app_asks("127.0.0.1:80"), "app, from 127.0.0.1");
    assert_eq!(pod.app_asks("[::1]:80"), "app, from ::1");
    assert_eq!(pod.app_asks("10.77.0.2:80"), "app, from 10.77.0.2");
    assert_eq!(pod.app_asks("[fd77::2]:80"), "app, from fd77::2");
    assert_eq!(pod.app_asks("127.0.0.1:15001"), "15001 for 127.0.0.1:15001", "and so are these");
}

fn the_proxy_sends_without_being_captured_but_to_its_own_workload() {
    let pod = Pod::captured(&[]);
    assert_eq!(pod.proxy_asks("10.88.0.1:80"), "outside");
    assert_eq!(pod.proxy_asks("[fd88::1]:80"), "outside");
    let by_group = Owner { user: 0, group: 1337 };
    assert_eq!(pod.pod.ask(by_group, "10.88.0.1:80"), "outside");
    // The workload calls its own service.
    assert_eq!(pod.proxy_asks("10.77.0.2:80"), "15006 for 10.77.0.2:80");
    assert_eq!(pod.proxy_asks("[fd77::2]:80"), "15006 for [fd77::2]:80");
    // The proxy calls the workload.
    assert_eq!(pod.proxy_asks("127.0.0.1:80"), "app, from 127.0.0.1");
    let proxy = Owner::PROXY;
    assert_eq!(pod.pod.ask_from(proxy, "127.0.0.6", "10.77.0.2:80"), "app, from 127.0.0.6");
    assert_eq!(pod.pod.ask_from(proxy, "::6", "[fd77::2]:80"), "app, from ::6");
}

fn who_calls_the_proxys_captured_ports_from_outside_is_refused() {
    let pod = Pod::captured(&[]);
    for to in ["10.77.0.2:15001", "10.77.0.2:15006", "[fd77::2]:15001", "[fd77::2]:15006"] {
        assert_eq!(pod.neighbour_asks(to), "ConnectionRefused", "{to}");
    }
}

fn ports_of_the_proxy_that_are_its_own_are_reached_as_they_are() {
    let pod = Pod::captured(&[]);
    for port in [15008, 15020, 15021, 15090] {
        pod.pod.answer(port, |_| "the proxy".into());
        assert_eq!(pod.neighbour_asks(&format!("10.77.0.2:{port}")), "the proxy");
    }
}

fn excluded_ports_ranges_and_interfaces_bypass_the_proxy() {
    let pod = Pod::captured(&["-d", "81", "-o", "81", "-x", "10.99.0.0/16,10.88.0.0/24,fd88::/16"]);
    assert_eq!(pod.neighbour_asks("10.77.0.2:81"), "app, from 10.77.0.1");
    assert_eq!(pod.neighbour_asks("[fd77::2]:81"), "app, from fd77::1");
    assert_eq!(pod.neighbour_asks("10.77.0.2:80"), "15006 for 10.77.0.2:80");
    assert_eq!(pod.app_asks("10.77.0.1:81"), "outside");
    assert_eq!(pod.app_asks("[fd77::1]:81"), "outside");
    assert_eq!(pod.app_asks("10.88.0.1:80"), "outside");
    assert_eq!(pod.app_asks("[fd88::1]:80"), "outside");
    assert_eq!(pod.app_asks("10.77.0.1:80"), "15001 for 10.77.0.1:80");
    pod.init(&["-c", "eth1"]);
    assert_eq!(pod.app_asks("10.78.0.1:80"), "outside");
    assert_eq!(pod.neighbour_asks("10.78.0.2:80"), "app, from 10.78.0.1");
    assert_eq!(pod.app_asks("10.77.0.1:80"), "15001 for 10.77.0.1:80");
    pod.init(&["-c", "et+"]);
    assert_eq!(pod.app_asks("10.77.0.1:80"), "outside");
}

fn included_ports_are_captured_beside_a_list_of_ranges() {
    let pod = Pod::captured(&["-q", "22", "-i", "10.88.0.0/24", "-x", "10.78.0.0/24"]);
    assert_eq!(pod.app_asks("10.88.0.1:80"), "15001 for 10.88.0.1:80");
    assert_eq!(pod.app_asks("10.77.0.1:22"), "15001 for 10.77.0.1:22");
    assert_eq!(pod.app_asks("[fd77::1]:22"), "15001 for [fd77::1]:22");
    assert_eq!(pod.app_asks("10.77.0.1:80"), "outside");
    assert_eq!(pod.app_asks("10.78.0.1:22"), "outside", "what is excluded is");
}

fn only_listed_ports_and_ranges_are_captured() {
    let pod = Pod::captured(&["-b", "80,81", "-i", "10.77.0.0/16,fd88::1/128"]);
    assert_eq!(pod.neighbour_asks("10.77.0.2:81"), "15006 for 10.77.0.2:81");
    assert_eq!(pod.neighbour_asks("10.77.0.2:22"), "app, from 10.77.0.1");
    assert_eq!(pod.proxy_asks("10.77.0.2:22"), "app, from 10.77.0.2");
    assert_eq!(pod.app_asks("10.77.0.1:80"), "15001 for 10.77.0.1:80");
    assert_eq!(pod.app_asks("[fd88::1]:80"), "15001 for [fd88::1]:80");
    assert_eq!(pod.app_asks("10.88.0.1:80"), "outside");
    assert_eq!(pod.app_asks("[fd77::1]:80"), "outside");
    pod.init(&["-b", "", "-i", ""]);
    assert_eq!(pod.neighbour_asks("10.77.0.2:80"), "app, from 10.77.0.1");
    assert_eq!(pod.app_asks("10.77.0.1:80"), "outside");
}

fn only_listed_groups_are_captured() {
    let pod = Pod::captured(&["--istio-outbound-owner-groups", "101,202"]);
    let of_group = |group| pod.pod.ask(Owner { user: 1000, group }, "10.88.0.1:80");
    assert_eq!(of_group(202), "15001 for 10.88.0.1:80");
    assert_eq!(of_group(303), "outside");
    pod.init(&["--istio-outbound-owner-groups-exclude", "101,202"]);
    assert_eq!(of_group(202), "outside");
    assert_eq!(of_group(303), "15001 for 10.88.0.1:80");
}

fn a_loopback_range_that_is_included_is_captured() {
    let pod = Pod::captured(&["-i", "127.1.2.3/32"]);
    assert_eq!(pod.app_asks("127.1.2.3:80"), "15001 for 127.1.2.3:80");
    assert_eq!(pod.app_asks("127.0.0.1:80"), "app, from 127.0.0.1");
    assert_eq!(pod.proxy_asks("127.1.2.3:80"), "app, from 127.0.0.1");
}

fn what_is_forwarded_is_untouched_and_what_is_rerouted_is_outbound() {
    let pod = Pod::captured(&[]);
    let machine = Namespace::new("vm");
    machine.link(("eth0", &["10.79.0.2/24"]), &pod.pod, ("net1", &["10.79.0.1/24"]));
    machine.ip(&["route", "add", "default", "via", "10.79.0.1"]);
    pod.neighbour.ip(&["route", "add", "10.79.0.0/24", "via", "10.77.0.2"]);
    let forward = pod.pod.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    assert!(forward.status.success(), "{}", text(&forward.stderr));
    let from_machine = |to| machine.ask(Owner::ROOT, to);
    assert_eq!(from_machine("10.88.0.1:80"), "outside");
    pod.init(&["-k", "net1"]);
    assert_eq!(from_machine("10.88.0.1:80"), "15001 for 10.88.0.1:80");
    pod.init(&["-k", "net1", "-i", "10.77.0.0/16"]);
    assert_eq!(from_machine("10.77.0.1:80"), "15001 for 10.77.0.1:80");
    assert_eq!(from_machine("10.88.0.1:80"), "outside");
    pod.init(&["-k", "net1", "-i", ""]);
    assert_eq!(from_machine("10.77.0.1:80"), "outside");
}

fn with_tproxy_the_application_sees_the_client() {
    let pod = Pod::new();
    pod.init(&["-m", "TPROXY", "-d", "81"]);
    relay_transparently(&pod.pod);
    pod.pod.answer(15001, |connection| format!("15001 for {}", original_destination(connection)));
    assert_eq!(pod.neighbour_asks("10.77.0.2:80"), "relayed: app, from 10.77.0.1");
    assert_eq!(pod.neighbour_asks("[fd77::2]:80"), "relayed: app, from fd77::1");
    assert_eq!(pod.neighbour_asks("10.77.0.2:81"), "app, from 10.77.0.1");
    assert_eq!(pod.app_asks("10.88.0.1:80"), "15001 for 10.88.0.1:80");
    assert_eq!(pod.neighbour_asks("10.77.0.2:15006"), "ConnectionRefused");
}

/// A proxy on port 15006 that takes the place of the application towards the client, and of the
/// client towards the application.
fn relay_transparently(pod: &Namespace) {
    let proxy = Owner { user: 0, group: 1337 };
    let listener = pod.within(proxy, || {
        let listener = net::listen(15006);
        listener.set_ip_transparent_v6(true).unwrap();
        listener
    });
    pod.serve(proxy, move || {
        while let Ok((connection, _)) = listener.accept() {
            let said = dial_as_client(&connection).unwrap_or_else(|error| error.to_string());
            let _ = (&connection).write_all(format!("relayed: {said}").as_bytes());
        }
    });
}

fn dial_as_client(connection: &Socket) -> io::Result<String> {
    let to = connection.local_addr()?.as_socket().unwrap();
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let onward = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if to.is_ipv4() {
        onward.set_ip_transparent_v4(true)?;
    } else {
        onward.set_ip_transparent_v6(true)?;
    }
    onward.set_mark(1337)?;
    onward.bind(&SocketAddr::new(peer(connection).ip(), 0).into())?;
    onward.connect_timeout(&to.into(), DEADLINE)?;
    onward.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    (&onward).read_to_string(&mut answer)?;
    Ok(answer)
}

/// A pod whose queries are captured, with the proxy's server and the real one.
fn with_dns(flags: &[&str]) -> Pod {
    let pod = Pod::captured(flags);
    for address in ["127.0.0.1:15053", "[::1]:15053"] {
        answer_queries(&pod.pod, Owner::PROXY, address, "proxy");
    }
    for address in ["10.77.0.1:53", "[fd77::1]:53"] {
        answer_queries(&pod.neighbour, Owner::ROOT, address, "server");
    }
    pod
}

fn answer_queries(namespace: &Namespace, owner: Owner, address: &str, name: &'static str) {
    let socket = namespace.within(owner, || std::net::UdpSocket::bind(address).unwrap());
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let query = String::from_utf8_lossy(&query[..length]).into_owned();
            let _ = socket.send_to(format!("{name}: {query}").as_bytes(), from);
        }
    });
}

const ANY_DNS: [&str; 2] = ["--redirect-dns", "--capture-all-dns"];

fn dns_queries_come_to_the_proxy_and_its_answers_from_the_server_that_was_asked() {
    let pod = with_dns(&ANY_DNS);
    pod.pod.answer(15053, |_| "15053 over TCP".into());
    for server in ["10.77.0.1:53", "[fd77::1]:53"] {
        // A connected socket takes an answer from whom it asked only.
        let ask = |owner| pod.pod.within(owner, || query(0, server, "x", DEADLINE).unwrap().1);
        assert_eq!(ask(Owner::APP), "proxy: x");
        assert_eq!(ask(Owner::PROXY), "server: x");
    }
    assert_eq!(pod.app_asks("10.77.0.1:53"), "15053 over TCP");
    pod.init(&[]);
    let direct = pod.pod.within(Owner::APP, || query(0, "10.77.0.1:53", "x", DEADLINE));
    assert_eq!(direct.unwrap().1, "server: x", "when it is not captured");
}

fn a_port_can_be_used_for_queries_by_the_application_and_by_the_proxy() {
    let pod = with_dns(&ANY_DNS);
    let ask =
        |owner, from| pod.pod.within(owner, || query(from, "10.77.0.1:53", "x", DEADLINE)).unwrap();
    let (port, answer) = ask(Owner::APP, 0);
    assert_eq!(answer, "proxy: x");
    assert_eq!(ask(Owner::PROXY, port).1, "server: x", "after the application");
    let (port, answer) = ask(Owner::PROXY, 0);
    assert_eq!(answer, "server: x");
    assert_eq!(ask(Owner::APP, port).1, "proxy: x", "after the proxy");
}

fn applying_twice_leaves_the_same_rules() {
    let pod = Pod::captured(&["-x", "10.0.0.0/24,10.0.1.0/25", "-o", "22,81"]);
    let once = rules(&pod.pod);
    pod.init(&["-x", "10.0.0.0/24,10.0.1.0/25", "-o", "22,81"]);
    assert_eq!(rules(&pod.pod), once);
    assert!(once.contains("chain outbound"), "{once}");
}

fn applying_while_connections_come_misses_none() {
    let pod = Pod::captured(&[]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100 {
                pod.init(&["-x", "192.0.2.0/24"]);
            }
            done.store(true, Ordering::Release);
        });
        let mut asked = 0;
        while !done.load(Ordering::Acquire) || asked < 100 {
            assert_eq!(pod.app_asks("10.88.0.1:80"), "15001 for 10.88.0.1:80", "after {asked}");
            assert_eq!(pod.neighbour_asks("10.77.0.2:80"), "15006 for 10.77.0.2:80");
            asked += 1;
        }
    });
}

/// The same rules by our encoder and by the one of nft, shown by nft.
fn what_is_printed_is_what_is_programmed() {
    const CASES: [&[&str]; 12] = [
        &[],
        &["-p", "16001", "-z", "16006", "-e", "16008", "-u", "1,2", "-g", "3"],
        &["-b", "80,443,81", "-i", "10.0.0.0/24,10.0.1.0/25,fd00::/8,fe80::/10"],
        &["-d", "22", "-o", "22,53", "-q", "443"],
        &["-x", "0.0.0.0/0,::/0"],
        &[
            "-x",
            "10.0.0.0/24,10.0.1.0/25",
            "-i",
            "255.255.255.0/24,0.0.0.0/8,10.0.0.0/9,::/1,ff00::/8",
        ],
        &["-k", "net1,tap+", "-c", "eth1"],
        &["--istio-outbound-owner-groups", "101,202", "--redirect-dns", "--capture-all-dns"],
        &["--istio-outbound-owner-groups-exclude", "5", "--drop-invalid"],
        &["-m", "TPROXY", "-t", "70000", "-r", "1000"],
        &["-m", "TPROXY", "-b", "80", "-c", "eth1", "-k", "net1"],
        &["-i", "127.1.2.3/32,10.9.9.9/32", "--istio-outbound-ipv4-loopback-cidr", "127.0.0.1/32"],
    ];
    for flags in CASES {
        let (ours, theirs) = (Namespace::new("ours"), Namespace::new("theirs"));
        let applied = init(&ours, flags);
        assert!(applied.status.success(), "{flags:?}: {}", text(&applied.stderr));
        let printed = init(&theirs, &[&["print"], flags].concat());
        assert_eq!(text(&applied.stdout), text(&printed.stdout), "{flags:?}");
        let mut nft = theirs.command("nft");
        let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(&printed.stdout).unwrap();
        assert!(nft.wait().unwrap().success(), "{flags:?}: {}", text(&printed.stdout));
        assert_eq!(rules(&ours), rules(&theirs), "{flags:?}");
    }
}

fn removing_leaves_nothing_behind() {
    let namespace = Namespace::new("pod");
    let before = everything(&namespace);
    for flags in [&["-m", "REDIRECT"], &["-m", "TPROXY"]] {
        assert!(init(&namespace, flags).status.success());
        assert_ne!(everything(&namespace), before);
        for _ in 0..2 {
            let removed = init(&namespace, &["remove"]);
            assert!(removed.status.success(), "{}", text(&removed.stderr));
            assert_eq!(everything(&namespace), before);
        }
    }
}

fn changing_from_tproxy_leaves_no_routes() {
    let namespace = Namespace::new("pod");
    assert!(init(&namespace, &[]).status.success());
    let before = everything(&namespace);
    assert!(init(&namespace, &["-m", "TPROXY"]).status.success());
    assert!(namespace.ip(&["rule"]).contains("fwmark 0x539 lookup 133"));
    assert!(namespace.ip(&["-6", "rule"]).contains("fwmark 0x539 lookup 133"));
    assert!(init(&namespace, &[]).status.success());
    assert_eq!(everything(&namespace), before);
}

fn a_value_without_meaning_leaves_the_old_rules() {
    let pod = Pod::captured(&["-o", "81"]);
    let before = rules(&pod.pod);
    for flags in [["-x", "10.0.0.0/33"], ["-d", "80,http"], ["-i", "here"], ["-p", "70000"]] {
        let refused = init(&pod.pod, &flags);
        assert_eq!(refused.status.code(), Some(1), "{flags:?}");
        assert!(text(&refused.stderr).contains("is not a"), "{}", text(&refused.stderr));
        assert_eq!(rules(&pod.pod), before, "{flags:?}");
    }
}

fn a_namespace_without_ipv6_is_no_error() {
    let pod = Pod::new();
    let off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
    assert!(pod.pod.run("sh", &["-c", off]).status.success());
    for mode in ["REDIRECT", "TPROXY"] {
        pod.init(&["-m", mode]);
    }
    pod.pod.answer(15001, |connection| format!("15001 for {}", original_destination(connection)));
    assert_eq!(pod.app_asks("10.88.0.1:80"), "15001 for 10.88.0.1:80");
}

/// `weir-init` with these capabilities, as setpriv has them.
fn init_with(namespace: &Namespace, capabilities: &str, arguments: &[&str]) -> Output {
    let bounds = format!("--bounding-set={capabilities}");
    let program = binaries::init();
    let command = [&bounds, "--inh-caps=-all", program.to_str().unwrap()];
    namespace.run("setpriv", &[&command[..], arguments].concat())
}

fn the_capability_to_administer_the_network_is_enough_and_is_asked_for() {
    let namespace = Namespace::new("pod");
    let refused = init_with(&namespace, "-all", &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("needs the capability NET_ADMIN"), "{refused:?}");
    let allowed = init_with(&namespace, "-all,+net_admin", &[]);
    assert!(allowed.status.success(), "{}", text(&allowed.stderr));
    assert!(rules(&namespace).contains("chain outbound"));
}

fn a_namespace_is_programmed_from_outside() {
    let pod = Pod::new();
    pod.pod.answer(15001, |connection| format!("15001 for {}", original_destination(connection)));
    let file = pod.pod.file();
    let flags = ["--network-namespace", file.to_str().unwrap()];
    let applied = Command::new(binaries::init()).args(flags).output().unwrap();
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    assert_eq!(pod.app_asks("10.88.0.1:80"), "15001 for 10.88.0.1:80");
    let nowhere = ["--network-namespace", "/var/run/netns/weir-no-such"];
    let refused = Command::new(binaries::init()).args(nowhere).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("/var/run/netns/weir-no-such"), "{refused:?}");
}

fn a_validation_tells_whether_connections_are_captured() {
    let pod = Pod::new();
    let validate = ["--skip-rule-apply", "--run-validation", "--probe-timeout", "1s"];
    let naked = init(&pod.pod, &validate);
    assert_eq!(naked.status.code(), Some(126), "{}", text(&naked.stderr));
    assert!(text(&naked.stderr).contains("the redirect rules are not programmed"), "{naked:?}");
    pod.init(&[]);
    let captured = init(&pod.pod, &["--skip-rule-apply", "--run-validation"]);
    assert!(captured.status.success(), "{}", text(&captured.stderr));
}

fn rules_that_cannot_be_validated_are_not_left_behind() {
    let namespace = Namespace::new("pod");
    let before = everything(&namespace);
    // There is no way out of here, so that nothing comes to the rules either.
    let validated = ["-m", "TPROXY", "--run-validation", "--probe-timeout", "1s"];
    let refused = init(&namespace, &validated);
    assert_eq!(refused.status.code(), Some(126), "{}", text(&refused.stderr));
    assert_eq!(everything(&namespace), before);
    // Somebody is in the proxy's place already.
    namespace.answer(15001, |_| "somebody".into());
    let refused = init(&namespace, &validated);
    assert_eq!(refused.status.code(), Some(126));
    assert!(text(&refused.stderr).contains("listen on port 15001"), "{}", text(&refused.stderr));
    assert_eq!(everything(&namespace), before);
}

fn init(namespace: &Namespace, flags: &[&str]) -> Output {
    namespace.run(binaries::init(), flags)
}

/// Our rules as the kernel has them.
fn rules(namespace: &Namespace) -> String {
    let listed = namespace.run("nft", &["list", "table", "inet", "weir"]);
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    text(&listed.stdout)
}

/// All that could be left behind, but what changes by itself.
fn everything(namespace: &Namespace) -> String {
    let ruleset = namespace.run("nft", &["list", "ruleset"]);
    let shown = [
        text(&ruleset.stdout),
        namespace.ip(&["rule"]),
        namespace.ip(&["-6", "rule"]),
        namespace.ip(&["route", "show", "table", "all"]),
        namespace.ip(&["-6", "address", "show", "dev", "lo"]),
    ];
    shown.join("\n")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
