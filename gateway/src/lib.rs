//! The proxy engine. The gateway is one user of it, the sidecar another.
//!
//! An exchange passes these stages, in this order; each is one call to one function in the file
//! named after it:
//!
//! | # | stage | file | ends the exchange with |
//! |---|---|---|---|
//! | 1 | accept | `listener/mod.rs` | overload: close |
//! | 2 | PROXY protocol, where configured | `listener/proxy_protocol.rs` | malformed: close |
//! | 3 | filter chain match | `listener/filter_chain.rs` | no chain: close, `NR` |
//! | 4 | downstream TLS | `listener/tls.rs` | handshake error, counted by reason |
//! | 5 | network authz, of TCP | `filter/network_authz.rs` | close |
//! | 6 | HTTP decode and strict check | `codec/h1`, `codec/h2` | 400 414 431 501 `DPE` |
//! | 7 | normalise | `http/normalize.rs` | 400 `DPE` |
//! | 8 | route | `route/mod.rs` | 404 `NR` |
//! | 9 | HTTP filters, request | `filter/mod.rs` | per filter |
//! | 10 | route action | `route/action.rs` | redirect, direct response |
//! | 11 | circuit breaker | `cluster/circuit_breaker.rs` | 503 `UO` |
//! | 12 | balance (per attempt) | `cluster/balancer.rs` | 503 `UH` |
//! | 13 | connect (per attempt) | `upstream/` | 503 `UF` |
//! | 14 | retry decision | `http/retry.rs` | `URX`, 504 `UT` |
//! | 15 | HTTP filters, response | `filter/mod.rs` | - |
//! | 16 | bodies, both ways at once | `http/stream.rs` | reset, never a clean end of a cut body |
//! | 17 | record | `telemetry/record.rs` | - |

pub mod app;
pub mod bootstrap;
pub mod canonical;
pub mod connection;
pub mod drain;
pub mod engine;
pub mod io;
pub mod last_in_line;
pub mod limits;
pub mod local_reply;
pub mod redirection;
mod sharded_map;
pub mod snapshot;
pub mod worker;

pub mod admin;
pub mod application;
pub mod cluster;
pub mod codec;
pub mod control_plane;
pub mod demo;
pub mod discovery;
pub mod dns;
pub mod filter;
pub mod head;
pub mod http;
pub mod http2;
pub mod identity;
pub mod listener;
pub mod route;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod tunnel;
pub mod upstream;
