// The transport: a thread that ends HTTP/2 and gRPC for all connections, and a C interface for ctypes.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <thread>

#include "connection.h"

namespace native {

namespace {

constexpr int kBacklog = 1024;
constexpr int kMostReady = 256;
constexpr uint32_t kReading = EPOLLIN | EPOLLRDHUP;
constexpr int kTickMs = 1000;
constexpr int kWelcomeAtOnce = 64;             // connections before others have their turn
constexpr size_t kMostUntaken = 16 << 20;      // bytes of events before the transport waits for the interpreter
constexpr std::chrono::milliseconds kLook{100};  // how often it then looks whether it should stop

// As gRPC writes an address: "ipv4:10.0.0.7:5123" or "ipv6:%5B::1%5D:5123".
std::string shown(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& four = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &four.sin_addr, text, sizeof text);
    return "ipv4:" + std::string(text) + ":" + std::to_string(ntohs(four.sin_port));
  }
  const auto& six = reinterpret_cast<const sockaddr_in6&>(address);
  if (IN6_IS_ADDR_V4MAPPED(&six.sin6_addr)) {
    inet_ntop(AF_INET, six.sin6_addr.s6_addr + 12, text, sizeof text);
    return "ipv4:" + std::string(text) + ":" + std::to_string(ntohs(six.sin6_port));
  }
  inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof text);
  return "ipv6:%5B" + std::string(text) + "%5D:" + std::to_string(ntohs(six.sin6_port));
}

}  // namespace

class Transport {
 public:
  explicit Transport(const Limits& limits) : limits_(limits), poll_(epoll_create1(EPOLL_CLOEXEC)) {
    watch(commands_.descriptor(), EPOLLIN, &commands_);
  }

  ~Transport() {
    stop();
    for (int listener : listeners_) close(listener);
    close(poll_);
  }

  // Listens on every address of a name. Returns the port, or 0 with errno's text.
  int listen(const char* host, int port, bool shared, std::string& error) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE;
    addrinfo* found = nullptr;
    if (int code = getaddrinfo(host, std::to_string(port).c_str(), &hints, &found)) {
      error = gai_strerror(code);
      return 0;
    }
    for (addrinfo* one = found; one; one = one->ai_next)
      if (int bound = listen_at(*one, port, shared)) port = bound;
      else error = strerror(errno);
    freeaddrinfo(found);
    if (listeners_.empty()) return 0;
    error.clear();
    return port;
  }

  void set_tls(Tls tls) {
    std::lock_guard<std::mutex> lock(tls_mutex_);
    tls_ = std::move(tls);
  }

  void start() {
    thread_ = std::thread([this] { run(); });
  }

  // No new connections and calls.
  void retire() {
    retiring_ = true;
    commands_.wake();
  }

  void stop() {
    if (!thread_.joinable()) return;
    stopping_ = true;
    commands_.wake();
    thread_.join();
  }

  void command(const uint8_t* records, size_t size) { commands_.put(Buffer(records, records + size)); }

  Mailbox& events() { return events_; }
  const Counters& counters() const { return counters_; }

 private:
  int listen_at(const addrinfo& address, int port, bool shared) {
    int listener = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0) return 0;
    int yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (shared) setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes);
    // As gRPC does: "::" is every address, also of IPv4.
    int no = 0;
    if (address.ai_family == AF_INET6) setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    sockaddr_storage at{};
    std::memcpy(&at, address.ai_addr, address.ai_addrlen);
    // The second address of a name gets the port that the first one found.
    if (address.ai_family == AF_INET6) reinterpret_cast<sockaddr_in6&>(at).sin6_port = htons(port);
    else reinterpret_cast<sockaddr_in&>(at).sin_port = htons(port);
    socklen_t size = address.ai_addrlen;
    if (bind(listener, reinterpret_cast<sockaddr*>(&at), size) || ::listen(listener, kBacklog) ||
        getsockname(listener, reinterpret_cast<sockaddr*>(&at), &size)) {
      int kept = errno;
      close(listener);
      errno = kept;
      return 0;
    }
    listeners_.push_back(listener);
    return ntohs(address.ai_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(at).sin6_port
                                               : reinterpret_cast<sockaddr_in&>(at).sin_port);
  }

  void watch(int descriptor, uint32_t events, void* data) {
    epoll_event wanted{events, {.ptr = data}};
    epoll_ctl(poll_, EPOLL_CTL_ADD, descriptor, &wanted);
  }

  void run() {
    // Signals are the interpreter's. SIGPIPE is blocked with them: OpenSSL writes without MSG_NOSIGNAL.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    pthread_setname_np(pthread_self(), "native-wire");
    watch_listeners();
    Instant ticked = Clock::now();
    while (!stopping_) {
      wait(kTickMs);
      if (retiring_ && !retired_) stop_listening();
      if (now_ - ticked >= std::chrono::milliseconds(kTickMs)) {
        ticked = now_;
        for (auto& [connection, _] : connections_) touch(connection, connection->tick(now_));
        if (deaf_) watch_listeners();
      }
      flush_touched();
      counters_.calls = static_cast<int64_t>(calls_.size());
      events_.put(told_);
      drop(told_);
      while (!stopping_ && !events_.wait_below(kMostUntaken, kLook)) continue;
    }
    obey();
    part();
    connections_.clear();
    counters_.connections = 0;
    counters_.calls = 0;
  }

  // Serves what happens within so long.
  void wait(int most_ms) {
    epoll_event ready[kMostReady];
    int count = epoll_wait(poll_, ready, kMostReady, most_ms);
    now_ = Clock::now();
    for (int i = 0; i < count; ++i) serve(ready[i]);
  }

  // Ends all connections and waits a while for their clients to leave.
  void part() {
    close_listeners();
    flush_touched();
    for (auto& [connection, _] : connections_) {
      connection->end(NGHTTP2_NO_ERROR);
      touch(connection, connection->begun());
    }
    flush_touched();
    Instant ends = now_ + std::chrono::milliseconds(limits_.linger_ms);
    while (!connections_.empty() && now_ < ends) {
      wait(static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(ends - now_).count()));
      flush_touched();
      drop(told_);  // nobody takes it any more
    }
  }

  void serve(const epoll_event& ready) {
    void* data = ready.data.ptr;
    if (data == &commands_) return obey();
    for (int& listener : listeners_)
      if (data == &listener) return welcome(listener);
    auto* connection = static_cast<Connection*>(data);
    // TLS may have waited for room to write before it could read, so either event is one to read at.
    touch(connection, connection->read(now_) && !(ready.events & (EPOLLERR | EPOLLHUP)));
  }

  void touch(Connection* connection, bool lives) {
    bool& known = touched_.emplace(connection, true).first->second;
    known = known && lives;
  }

  void watch_listeners() {
    deaf_ = false;
    for (int& listener : listeners_) watch(listener, EPOLLIN, &listener);
  }

  // The process has no descriptors or no memory: listening on would find the same client again at once.
  void stop_watching_listeners() {
    deaf_ = true;
    for (int listener : listeners_) epoll_ctl(poll_, EPOLL_CTL_DEL, listener, nullptr);
  }

  void welcome(int listener) {
    for (int i = 0; i < kWelcomeAtOnce; ++i) {
      sockaddr_storage address{};
      socklen_t size = sizeof address;
      int descriptor = accept4(listener, reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (descriptor < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) stop_watching_listeners();
        return;
      }
      if (static_cast<int64_t>(connections_.size()) >= limits_.connections) {
        ++counters_.turned_away;
        close(descriptor);
        continue;
      }
      int yes = 1;
      setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
      Tls tls;
      {
        std::lock_guard<std::mutex> lock(tls_mutex_);
        tls = tls_;
      }
      Shared shared{limits_, counters_, calls_, last_call_, told_};
      auto connection = std::make_unique<Connection>(std::make_unique<Socket>(descriptor, tls), shown(address), shared, now_);
      Connection* key = connection.get();
      watch(descriptor, kReading, key);
      touch(key, true);
      connections_.emplace(key, std::make_pair(std::move(connection), kReading));
      counters_.connections = static_cast<int64_t>(connections_.size());
    }
  }

  void obey() {
    commands_.take(orders_);
    const uint8_t* at = orders_.data();
    const uint8_t* end = at + orders_.size();
    while (end - at >= static_cast<ptrdiff_t>(sizeof(Head))) {
      Head head;
      std::memcpy(&head, at, sizeof head);
      at += sizeof head;
      const uint8_t* bytes = at;
      at += head.size;
      auto found = calls_.find(head.call);
      if (found == calls_.end()) continue;
      Call& call = *found->second;
      Connection* connection = call.connection;
      touch(connection, true);
      switch (static_cast<Command>(head.kind)) {
        case Command::kRead: connection->grant(call, head.extra); break;
        case Command::kSend: connection->send(call, bytes, head.size); break;
        case Command::kNotify: connection->notify(call); break;
        case Command::kFinish: connection->finish(call, bytes, head.size); break;
      }
    }
  }

  // Writes once for each connection that something has happened to.
  void flush_touched() {
    for (auto& [connection, lives] : touched_) {
      auto& [owned, watched] = connections_.at(connection);
      if (lives && connection->flush(now_)) {
        uint32_t wishes = (connection->crowded() ? 0u : kReading) | (connection->wants_write() ? EPOLLOUT : 0u);
        if (wishes == watched) continue;
        watched = wishes;
        epoll_event wanted{wishes, {.ptr = connection}};
        epoll_ctl(poll_, EPOLL_CTL_MOD, connection->descriptor(), &wanted);
      } else {
        // Closing the socket does not end the watch if another descriptor of it is open.
        epoll_ctl(poll_, EPOLL_CTL_DEL, connection->descriptor(), nullptr);
        connections_.erase(connection);
        counters_.connections = static_cast<int64_t>(connections_.size());
      }
    }
    touched_.clear();
  }

  void close_listeners() {
    for (int listener : listeners_) epoll_ctl(poll_, EPOLL_CTL_DEL, listener, nullptr), close(listener);
    listeners_.clear();
  }

  void stop_listening() {
    retired_ = true;
    close_listeners();
    for (auto& [connection, _] : connections_) {
      connection->retire();
      touch(connection, true);
    }
  }

  const Limits limits_;
  Counters counters_;
  int poll_;
  std::vector<int> listeners_;
  Mailbox commands_, events_;
  std::thread thread_;
  std::atomic<bool> retiring_{false}, stopping_{false};
  bool retired_ = false;
  bool deaf_ = false;  // listeners are not watched until the next tick
  std::mutex tls_mutex_;
  Tls tls_;

  // Of the transport's thread. The maps of calls and events outlive the connections, which use them at their end.
  Instant now_ = Clock::now();
  Buffer told_, orders_;
  uint64_t last_call_ = 0;
  std::unordered_map<uint64_t, Call*> calls_;
  // Each with what its socket is watched for.
  std::unordered_map<Connection*, std::pair<std::unique_ptr<Connection>, uint32_t>> connections_;
  // Those to be flushed, and whether they live.
  std::unordered_map<Connection*, bool> touched_;
};

}  // namespace native

using native::Transport;

namespace {

void tell(const std::string& error, char* to, int64_t room) {
  if (room > 0) std::snprintf(to, static_cast<size_t>(room), "%s", error.c_str());
}

// What the interpreter has taken last. It stays until the next time.
struct Handle {
  explicit Handle(const native::Limits& limits) : transport(limits) {}
  Transport transport;
  native::Buffer taken;
};

}  // namespace

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

EXPORTED void* transport_make(const native::Limits* limits) { return new Handle(*limits); }

EXPORTED int64_t transport_listen(Handle* handle, const char* host, int64_t port, int64_t shared, char* error, int64_t room) {
  std::string why;
  int bound = handle->transport.listen(host, static_cast<int>(port), shared != 0, why);
  tell(why, error, room);
  return bound;
}

// PEM texts; an empty client_ca asks clients for no certificate. 0 if they are in force.
EXPORTED int64_t transport_tls(Handle* handle, const char* cert, const char* key, const char* client_ca, char* error, int64_t room) {
  std::string why;
  native::Tls tls = native::make_tls(cert, key, client_ca, why);
  tell(why, error, room);
  if (!tls) return 1;
  handle->transport.set_tls(std::move(tls));
  return 0;
}

EXPORTED void transport_start(Handle* handle) { handle->transport.start(); }
EXPORTED int64_t transport_descriptor(Handle* handle) { return handle->transport.events().descriptor(); }

EXPORTED int64_t transport_take(Handle* handle, const uint8_t** records) {
  handle->transport.events().take(handle->taken);
  *records = handle->taken.data();
  return static_cast<int64_t>(handle->taken.size());
}

EXPORTED void transport_do(Handle* handle, const uint8_t* records, int64_t size) {
  handle->transport.command(records, static_cast<size_t>(size));
}

// In the order of `Counters`.
EXPORTED void transport_counters(Handle* handle, int64_t* to) {
  const native::Counters& counters = handle->transport.counters();
  for (const auto* one : {&counters.connections, &counters.turned_away, &counters.refused_calls,
                          &counters.bad_connections, &counters.too_many_pings, &counters.calls})
    *to++ = one->load();
}
EXPORTED void transport_retire(Handle* handle) { handle->transport.retire(); }
EXPORTED void transport_stop(Handle* handle) { handle->transport.stop(); }
EXPORTED void transport_free(Handle* handle) { delete handle; }

}  // extern "C"
