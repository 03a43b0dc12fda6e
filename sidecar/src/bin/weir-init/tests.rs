//! What each knob changes in the rules, as printed.

use clap::Parser as _;
use weir_sidecar::{
    arguments::{Arguments, Environment},
    redirect,
};

fn arguments(flags: &[&str]) -> Arguments {
    Arguments::try_parse_from([&["weir-init"], flags].concat()).unwrap()
}

fn rules(flags: &[&str]) -> String {
    rules_in(&Environment::default(), flags)
}

fn rules_in(environment: &Environment, flags: &[&str]) -> String {
    redirect::table(&arguments(flags).settings(environment).unwrap()).to_string()
}

fn refusal(flags: &[&str]) -> String {
    let error = arguments(flags).settings(&Environment::default()).unwrap_err();
    format!("{error}: {}", std::error::Error::source(&error).unwrap())
}

macro_rules! golden {
    ($($name:ident: $($flag:literal)*;)+) => {$(
        #[test]
        fn $name() {
            insta::with_settings!({ snapshot_path => "../../../testdata/redirect", prepend_module_to_snapshot => false }, {
                insta::assert_snapshot!(stringify!($name), rules(&[$($flag),*]));
            });
        }
    )+};
}

golden! {
    the_defaults: ;
    the_flags_of_the_injection_template:
        "-p" "15001" "-z" "15006" "-u" "1337" "-m" "REDIRECT" "-i" "*" "-x" "" "-b" "*"
        "-d" "15090,15021,15020" "--log_output_level=default:info";
    ports_of_the_proxy: "-p" "16001" "-z" "16006" "-e" "16008";
    several_users_and_groups: "-u" "1000,1337" "-g" "2000";
    inbound_ports_only: "-b" "80,8443,80" "-d" "9090";
    inbound_none: "-b" "";
    inbound_ports_excluded: "-d" "22,9090";
    outbound_ranges_only: "-i" "10.96.0.0/12,10.0.0.0/16,fd00:10::/112";
    outbound_none: "-i" "";
    outbound_ranges_excluded: "-x" "169.254.169.254/32,10.1.0.0/16,10.1.2.0/24,fd00::/8";
    outbound_ports_beside_ranges: "-q" "25,3306" "-i" "10.0.0.0/8" "-x" "10.9.0.0/16";
    outbound_ports_alone: "-q" "443" "-i" "";
    outbound_ports_excluded: "-o" "22,53";
    outbound_to_loopback_ranges: "-i" "127.1.2.3/32,10.0.0.0/8";
    what_counts_as_loopback: "--istio-outbound-ipv4-loopback-cidr" "127.0.0.1/32";
    interfaces_rerouted: "-k" "net1,tap+";
    interfaces_rerouted_beside_ranges: "-k" "net1" "-i" "10.0.0.0/8" "-b" "";
    interfaces_rerouted_to_nothing: "-k" "net1" "-i" "";
    interfaces_excluded: "-c" "eth1,net+";
    owner_groups_only: "--istio-outbound-owner-groups" "101,202";
    owner_groups_none: "--istio-outbound-owner-groups" "";
    owner_groups_excluded: "--istio-outbound-owner-groups-exclude" "101,202";
    dns_of_any_server: "--redirect-dns" "--capture-all-dns";
    dns_with_its_port_excluded: "--redirect-dns" "--capture-all-dns" "-o" "53";
    tproxy: "-m" "TPROXY";
    tproxy_with_everything:
        "-m" "TPROXY" "-b" "80,443" "-c" "eth1" "-k" "net1" "-t" "1400" "-r" "140";
    invalid_dropped: "--drop-invalid";
}

#[test]
fn dns_of_the_servers_of_the_pod() {
    let environment = Environment {
        resolv_conf: "search x.svc\nnameserver 10.96.0.10\nnameserver fd00::a%eth0\n\
                      # nameserver 1.1.1.1\nnameserver 10.96.0.11\noptions ndots:5\n"
            .into(),
        ..Environment::default()
    };
    insta::with_settings!({ snapshot_path => "../../../testdata/redirect", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(
            "dns_of_the_servers_of_the_pod",
            rules_in(&environment, &["--redirect-dns"])
        );
    });
}

#[test]
fn dns_without_a_server_is_not_captured() {
    assert_eq!(rules(&["--redirect-dns"]), rules(&[]));
}

#[test]
fn knobs_of_the_other_names_mean_the_same() {
    let environment = Environment {
        dns_capture: Some("true".into()),
        invalid_drop: Some("TRUE".into()),
        ..Environment::default()
    };
    assert_eq!(
        rules_in(&environment, &["--capture-all-dns"]),
        rules(&["--redirect-dns=true", "--capture-all-dns=1", "--drop-invalid"])
    );
    assert_eq!(
        rules_in(&environment, &["--redirect-dns=false", "--drop-invalid=0"]),
        rules(&[]),
        "a flag is more than the environment"
    );
}

#[test]
fn what_the_iptables_program_is_told_about_itself_changes_nothing() {
    let flags = ["--dual-stack", "--cni-mode=false", "--reconcile", "--force-apply=true", "-f"];
    assert_eq!(rules(&flags), rules(&[]));
    assert_eq!(rules(&["--native-nftables", "--force-iptables-binary", "legacy"]), rules(&[]));
}

#[test]
fn a_value_without_meaning_is_refused_with_its_knob() {
    assert_eq!(
        refusal(&["-x", "10.0.0.1"]),
        "--istio-service-exclude-cidr: \"10.0.0.1\" is not a range of addresses; write for example \
         10.0.0.0/8, or /32 for one"
    );
    assert_eq!(
        refusal(&["-i", "10.0.0.0/33"]),
        "--istio-service-cidr: \"10.0.0.0/33\" is not a range of addresses; write for example \
         10.0.0.0/8, or /32 for one"
    );
    assert_eq!(
        refusal(&["-x", "*"]),
        "--istio-service-exclude-cidr: \"*\" is not a range of addresses; write for example \
         10.0.0.0/8, or /32 for one"
    );
    assert_eq!(
        refusal(&["-d", "80,http"]),
        "--istio-local-exclude-ports: \"http\" is not a port; those are 1 to 65535"
    );
    assert_eq!(refusal(&["-p", "0"]), "--envoy-port: \"0\" is not a port; those are 1 to 65535");
    assert_eq!(
        refusal(&["-o", "65536"]),
        "--istio-local-outbound-ports-exclude: \"65536\" is not a port; those are 1 to 65535"
    );
    assert_eq!(
        refusal(&["-m", "NONE"]),
        "--istio-inbound-interception-mode: \"NONE\" is not a mode; there are REDIRECT and TPROXY"
    );
    assert_eq!(
        refusal(&["-c", "an-interface-of-20-c"]),
        "--istio-exclude-interfaces: \"an-interface-of-20-c\" is not an interface; names have up \
         to 15 characters"
    );
    assert_eq!(
        refusal(&["-k", "eth0\" accept"]),
        "--kube-virt-interfaces: \"eth0\\\" accept\" is not an interface; names have up to 15 \
         characters"
    );
    assert_eq!(
        refusal(&["-u", "nobody-here"]),
        "--proxy-uid: \"nobody-here\" is not a user: neither a number nor a name here"
    );
    assert_eq!(
        refusal(&["--istio-outbound-ipv4-loopback-cidr", "10.0.0.0/8"]),
        "--istio-outbound-ipv4-loopback-cidr: \"10.0.0.0/8\" is not a part of 127.0.0.0/8, such as \
         127.0.0.1/32"
    );
    assert_eq!(refusal(&["-t", "x"]), "--istio-inbound-tproxy-mark: \"x\" is not a number over 0");
}
