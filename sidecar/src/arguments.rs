//! The command line: what `pilot-agent istio-iptables` takes, flags and environment, so that an
//! injection template made for it runs this instead.

use std::{env, fs, path::PathBuf, time::Duration};

use crate::redirect::{Dns, Invalid, Names, Settings, parse};
use clap::{ArgAction, Parser, ValueEnum};

/// Programs which traffic of a network namespace goes to the proxy. Without arguments that is all
/// TCP, in and out, but the proxy's own.
#[derive(Debug, Parser)]
#[command(name = "weir-init", version)]
pub struct Arguments {
    /// What to do with the rules.
    #[arg(value_enum, default_value = "apply")]
    action: Action,
    /// The proxy's port for outbound connections.
    #[arg(short = 'p', long, env, value_name = "PORT", default_value = "15001")]
    envoy_port: String,
    /// The proxy's port for inbound connections.
    #[arg(short = 'z', long, env, value_name = "PORT", default_value = "15006")]
    inbound_capture_port: String,
    /// The proxy's port for HBONE, whose connections come to it by themselves.
    #[arg(short = 'e', long, env, value_name = "PORT", default_value = "15008")]
    inbound_tunnel_port: String,
    /// The users the proxy runs as: their traffic is not captured [default: the user
    /// `istio-proxy`, or 1337].
    #[arg(short = 'u', long, env, value_name = "USER,...", default_value = "")]
    proxy_uid: String,
    /// The groups the proxy runs as [default: the numbers of its users].
    #[arg(short = 'g', long, env, value_name = "GROUP,...", default_value = "")]
    proxy_gid: String,
    /// How inbound connections are taken: REDIRECT or TPROXY.
    #[arg(short = 'm', long, env, value_name = "MODE", default_value = "REDIRECT")]
    istio_inbound_interception_mode: String,
    /// Inbound ports that are captured; `*` is all, nothing is none.
    #[arg(short = 'b', long, env, value_name = "PORT,...", default_value = "*")]
    istio_inbound_ports: String,
    /// Inbound ports that are not captured, where all are.
    #[arg(short = 'd', long, env, value_name = "PORT,...", default_value = "")]
    istio_local_exclude_ports: String,
    /// Destinations that are captured; `*` is all, nothing is none.
    #[arg(short = 'i', long, env, value_name = "CIDR,...", default_value = "*")]
    istio_service_cidr: String,
    /// Destinations that are not captured.
    #[arg(short = 'x', long, env, value_name = "CIDR,...", default_value = "")]
    istio_service_exclude_cidr: String,
    /// Outbound ports that are captured whatever the destination.
    #[arg(short = 'q', long, env, value_name = "PORT,...", default_value = "")]
    istio_outbound_ports: String,
    /// Outbound ports that are not captured.
    #[arg(short = 'o', long, env, value_name = "PORT,...", default_value = "")]
    istio_local_outbound_ports_exclude: String,
    /// Interfaces of virtual machines: what comes in there is outbound.
    #[arg(short = 'k', long, env, value_name = "INTERFACE,...", default_value = "")]
    kube_virt_interfaces: String,
    /// Interfaces whose traffic is not captured; a `+` at the end is any rest of the name.
    #[arg(short = 'c', long, env, value_name = "INTERFACE,...", default_value = "")]
    istio_exclude_interfaces: String,
    /// Groups whose outbound traffic is captured; `*` is all.
    #[arg(long, env, value_name = "GROUP,...", default_value = "*")]
    istio_outbound_owner_groups: String,
    /// Groups whose outbound traffic is not captured, where all are.
    #[arg(long, env, value_name = "GROUP,...", default_value = "")]
    istio_outbound_owner_groups_exclude: String,
    /// What counts as the loopback address [default: all of 127.0.0.0/8].
    #[arg(long, env, value_name = "CIDR", default_value = "")]
    istio_outbound_ipv4_loopback_cidr: String,
    /// The mark of packets that TPROXY takes back to the proxy.
    #[arg(short = 't', long, env, value_name = "MARK", default_value = "1337")]
    istio_inbound_tproxy_mark: String,
    /// The routing table of these packets.
    #[arg(short = 'r', long, env, value_name = "TABLE", default_value = "133")]
    istio_inbound_tproxy_route_table: String,
    /// Captures DNS queries to the servers of /etc/resolv.conf [env: also ISTIO_META_DNS_CAPTURE].
    #[arg(long, env, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = boolean, value_name = "BOOL")]
    redirect_dns: Option<bool>,
    /// Captures DNS queries to any server, where queries are captured.
    #[arg(long, env, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false", value_parser = boolean)]
    #[arg(value_name = "BOOL")]
    capture_all_dns: bool,
    /// Drops packets that belong to no connection [env: also INVALID_DROP].
    #[arg(long, env, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = boolean, value_name = "BOOL")]
    drop_invalid: Option<bool>,
    /// Prints the rules only, as `print` does.
    #[arg(short = 'n', long, env, action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true", default_value = "false")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    dry_run: bool,
    /// Programs nothing: for a validation alone.
    #[arg(long, env, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false", value_parser = boolean)]
    #[arg(value_name = "BOOL")]
    skip_rule_apply: bool,
    /// Removes the rules, as `remove` does.
    #[arg(long, env, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false", value_parser = boolean)]
    #[arg(value_name = "BOOL")]
    cleanup_only: bool,
    /// Ends with 126 unless connections of this namespace are captured. Not as the proxy's user, whose
    /// are not.
    #[arg(long, env, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false", value_parser = boolean)]
    #[arg(value_name = "BOOL")]
    pub run_validation: bool,
    /// The port that the validation calls.
    #[arg(long, env, value_name = "PORT", default_value = "15002")]
    pub iptables_probe_port: u16,
    /// How long the validation waits, such as `5s`.
    #[arg(long, env, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub probe_timeout: Duration,
    /// The network namespace, by its file, in place of the own.
    #[arg(long, env, value_name = "FILE")]
    pub network_namespace: Option<PathBuf>,
    #[command(flatten)]
    accepted: Accepted,
}

/// Flags that mean something to `istio-iptables` only: both families are always programmed, always in
/// nf_tables, always by replacing what is there.
#[derive(Debug, clap::Args)]
struct Accepted {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    dual_stack: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    cni_mode: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    reconcile: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    force_apply: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    native_nftables: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    iptables_trace_logging: Option<Option<String>>,
    #[arg(short = 'f', long, hide = true, num_args = 0..=1, require_equals = true)]
    restore_format: Option<Option<String>>,
    #[arg(long, hide = true)]
    force_iptables_binary: Option<String>,
    #[arg(long = "log_output_level", hide = true)]
    log_output_level: Option<String>,
}

/// What to do with the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Programs them in place of those that are there, and prints them.
    Apply,
    /// Does the same, gives up every privilege, and stays until it is told to end.
    Stay,
    /// Waits until there are some, 30 s at most.
    Wait,
    /// Prints them in the syntax of nft.
    Print,
    /// Removes what is there.
    Remove,
    /// Leaves everything as it is.
    #[value(skip)]
    Nothing,
}

/// What is known without being told.
#[derive(Debug, Default)]
pub struct Environment {
    pub names: Names,
    pub resolv_conf: String,
    /// `ISTIO_META_DNS_CAPTURE`.
    pub dns_capture: Option<String>,
    /// `INVALID_DROP`.
    pub invalid_drop: Option<String>,
    /// `ENVOY_USER`.
    pub envoy_user: Option<String>,
}

/// A knob that has a value without meaning.
#[derive(Debug, thiserror::Error)]
#[error("--{knob}")]
pub struct Error {
    knob: &'static str,
    #[source]
    source: Invalid,
}

impl Environment {
    pub fn of_process() -> Self {
        Self {
            names: Names::of_system(),
            resolv_conf: fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            dns_capture: env::var("ISTIO_META_DNS_CAPTURE").ok(),
            invalid_drop: env::var("INVALID_DROP").ok(),
            envoy_user: env::var("ENVOY_USER").ok(),
        }
    }
}

impl Arguments {
    pub fn action(&self) -> Action {
        match self.action {
            Action::Apply | Action::Stay if self.dry_run => Action::Print,
            Action::Apply | Action::Stay if self.cleanup_only => Action::Remove,
            Action::Apply | Action::Stay if self.skip_rule_apply => Action::Nothing,
            action => action,
        }
    }

    /// The settings of these arguments.
    ///
    /// # Errors
    /// The first that has no meaning.
    pub fn settings(&self, environment: &Environment) -> Result<Settings, Error> {
        let names = &environment.names;
        let port = |knob, word: &str| parse::port(word).map_err(of(knob));
        let ports = |knob, list: &str| parse::ports(list).map_err(of(knob));
        let interfaces = |knob, list: &str| parse::interfaces(list).map_err(of(knob));
        let (users, groups) = self.owners(environment)?;
        Ok(Settings {
            mode: parse::mode(&self.istio_inbound_interception_mode)
                .map_err(of("istio-inbound-interception-mode"))?,
            outbound_port: port("envoy-port", &self.envoy_port)?,
            inbound_port: port("inbound-capture-port", &self.inbound_capture_port)?,
            tunnel_port: port("inbound-tunnel-port", &self.inbound_tunnel_port)?,
            users,
            groups,
            inbound: parse::ports_or_all(&self.istio_inbound_ports)
                .map_err(of("istio-inbound-ports"))?,
            inbound_exclude: ports("istio-local-exclude-ports", &self.istio_local_exclude_ports)?,
            outbound: parse::ranges_or_all(&self.istio_service_cidr)
                .map_err(of("istio-service-cidr"))?,
            outbound_exclude: parse::ranges(&self.istio_service_exclude_cidr)
                .map_err(of("istio-service-exclude-cidr"))?,
            outbound_ports: ports("istio-outbound-ports", &self.istio_outbound_ports)?,
            outbound_ports_exclude: ports(
                "istio-local-outbound-ports-exclude",
                &self.istio_local_outbound_ports_exclude,
            )?,
            owner_groups: parse::owner_groups(
                &self.istio_outbound_owner_groups,
                &self.istio_outbound_owner_groups_exclude,
                names,
            )
            .map_err(of("istio-outbound-owner-groups"))?,
            reroute_interfaces: interfaces("kube-virt-interfaces", &self.kube_virt_interfaces)?,
            exclude_interfaces: interfaces(
                "istio-exclude-interfaces",
                &self.istio_exclude_interfaces,
            )?,
            dns: self.dns(environment),
            drop_invalid: self.drop_invalid.unwrap_or_else(|| is_true(&environment.invalid_drop)),
            loopback: Some(self.istio_outbound_ipv4_loopback_cidr.trim())
                .filter(|word| !word.is_empty())
                .map(parse::loopback)
                .transpose()
                .map_err(of("istio-outbound-ipv4-loopback-cidr"))?,
            tproxy_mark: parse::number(&self.istio_inbound_tproxy_mark)
                .map_err(of("istio-inbound-tproxy-mark"))?,
            tproxy_table: parse::number(&self.istio_inbound_tproxy_route_table)
                .map_err(of("istio-inbound-tproxy-route-table"))?,
        })
    }

    fn owners(&self, environment: &Environment) -> Result<(Owners, Owners), Error> {
        let names = &environment.names;
        let defaults = Settings::default();
        let mut users = parse::users(&self.proxy_uid, names).map_err(of("proxy-uid"))?;
        if users.is_empty() {
            let name = environment.envoy_user.as_deref().unwrap_or("istio-proxy");
            users = names.user(name).map_or(defaults.users, |user| Owners::from([user]));
        }
        let groups = parse::groups(&self.proxy_gid, names).map_err(of("proxy-gid"))?;
        let groups = if groups.is_empty() { users.clone() } else { groups };
        Ok((users, groups))
    }

    fn dns(&self, environment: &Environment) -> Dns {
        let captured = self.redirect_dns.unwrap_or_else(|| is_true(&environment.dns_capture));
        match captured {
            false => Dns::Off,
            true if self.capture_all_dns => Dns::All,
            true => Dns::Servers(parse::name_servers(&environment.resolv_conf)),
        }
    }
}

type Owners = std::collections::BTreeSet<u32>;

fn of(knob: &'static str) -> impl Fn(Invalid) -> Error {
    move |source| Error { knob, source }
}

/// As Go reads it, in which these knobs were first read.
fn boolean(word: &str) -> Result<bool, &'static str> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false"),
    }
}

fn is_true(word: &Option<String>) -> bool {
    word.as_deref().is_some_and(|word| boolean(word) == Ok(true))
}

fn duration(word: &str) -> Result<Duration, &'static str> {
    let (number, unit) = word.split_at(word.find(char::is_alphabetic).unwrap_or(word.len()));
    let number: u32 = number.parse().ok().ok_or("a duration is for example 5s")?;
    match unit {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(u64::from(number) * 60)),
        _ => Err("a duration has the unit ms, s or m"),
    }
}
