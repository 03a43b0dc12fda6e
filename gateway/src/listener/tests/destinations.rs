//! Chains of redirected connections: a change costs what changed, and comes to the same as all anew.

use std::{net::SocketAddr, sync::Arc};

use weir_config::model::{
    FilterChain, FilterChainName, ListenerName,
    listener::{Beginning, NetworkFilter, RedirectMatch},
    matcher::HostPattern,
};

use super::{super::filter_chain::FilterChains, *};

fn chain(rng: &mut fastrand::Rng) -> Arc<FilterChain> {
    let beginnings = [Beginning::Any, Beginning::Http, Beginning::Tls];
    let nets = [None, Some("10.0.0.1/32"), Some("10.0.0.2/32"), Some("10.0.0.0/24"), Some("::/0")];
    let net = nets[rng.usize(..nets.len())];
    let redirected = RedirectMatch {
        address: net.map(|net| net.parse().unwrap()),
        port: [None, Some(80), Some(443)][rng.usize(..3)],
        begins: beginnings[rng.usize(..beginnings.len())],
    };
    let name = FilterChainName::new(format!("chain-{:02}", rng.u8(..40)));
    let server_names = match rng.bool() {
        true => Arc::default(),
        false => [HostPattern::parse(["a.test", "*.test"][rng.usize(..2)])].into(),
    };
    Arc::new(FilterChain {
        name,
        listener: ListenerName::new("outbound"),
        server_names,
        redirected: Some(redirected),
        mesh_only: false,
        tls: None,
        network: NetworkFilter::TcpProxy { clusters: Arc::default(), idle_timeout: None },
        gateway: rng.u8(..).to_string().into(),
    })
}

/// Which chains connections get there, whatever they begin with.
fn found(chains: &FilterChains) -> Vec<String> {
    let mut all = Vec::new();
    for ip in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1", "::1"] {
        for port in [80, 443, 9] {
            let there = chains.destination(SocketAddr::new(ip.parse().unwrap(), port));
            let names = [None, Some("a.test"), Some("b.test")];
            let by_name = names.map(|name| there.tls(tls::MeshOffer::None, name));
            for chain in [there.any(), there.http(), there.only()].into_iter().chain(by_name) {
                let chain = chain.map(|chain| (&chain.config.name, &chain.config.gateway));
                all.push(format!("{ip} {port} {chain:?}"));
            }
        }
    }
    all
}

#[test]
fn changes_come_to_the_same_as_all_chains_anew() {
    let secrets = Secrets::default();
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut configs: BTreeMap<FilterChainName, Arc<FilterChain>> = BTreeMap::new();
        let mut chains = FilterChains::default();
        for _ in 0..40 {
            let config = chain(&mut rng);
            let name = config.name.clone();
            let change = match rng.u8(..3) {
                0 => None,
                _ => Some(config),
            };
            match &change {
                Some(config) => configs.insert(name.clone(), Arc::clone(config)),
                None => configs.remove(&name),
            };
            chains = FilterChains::changed(&chains, [(&name, change.as_ref())], &secrets);
        }
        let anew = FilterChains::next(None, configs.values(), &secrets);
        assert_eq!(found(&chains), found(&anew), "seed {seed}");
    }
}

#[test]
fn other_destinations_stay_what_they_are() {
    let secrets = Secrets::default();
    let mut rng = fastrand::Rng::with_seed(1);
    let at = |ip: &str, name: &str, rng: &mut fastrand::Rng| {
        let redirected = RedirectMatch {
            address: Some(ip.parse().unwrap()),
            port: Some(80),
            begins: Beginning::Any,
        };
        let name = FilterChainName::new(name);
        let config = FilterChain::clone(&chain(rng));
        Arc::new(FilterChain { name, redirected: Some(redirected), ..config })
    };
    let (one, other) = (at("10.0.0.1/32", "a", &mut rng), at("10.0.0.2/32", "b", &mut rng));
    let chains = FilterChains::next(None, [&one, &other], &secrets);
    let moved = at("10.0.0.3/32", "a", &mut rng);
    let changed = FilterChains::changed(&chains, [(&moved.name, Some(&moved))], &secrets);
    let there = |chains: &FilterChains, ip: &str| {
        Arc::clone(chains.destination(SocketAddr::new(ip.parse().unwrap(), 80)))
    };
    assert!(Arc::ptr_eq(&there(&chains, "10.0.0.2"), &there(&changed, "10.0.0.2")));
    assert!(there(&changed, "10.0.0.1").any().is_none());
    assert!(there(&changed, "10.0.0.3").any().is_some());
}
