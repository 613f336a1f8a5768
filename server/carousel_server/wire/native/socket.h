// A connected socket, in the clear or with TLS. Never blocks.

#pragma once

#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace native {

struct SslFree {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using Tls = std::shared_ptr<SSL_CTX>;

// PEM texts to a context that speaks h2 only. Empty with `error` set if they cannot be used.
// With `client_ca`, clients must show a certificate that it has signed.
Tls make_tls(const std::string& cert, const std::string& key, const std::string& client_ca, std::string& error);

class Socket {
 public:
  // Takes the descriptor over.
  Socket(int descriptor, const Tls& tls) : descriptor_(descriptor), tls_(tls) {
    if (tls_) {
      ssl_.reset(SSL_new(tls_.get()));
      SSL_set_fd(ssl_.get(), descriptor);
      SSL_set_accept_state(ssl_.get());
    }
  }
  ~Socket() { close(descriptor_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int descriptor() const { return descriptor_; }
  // TLS may have to write before it can read, and the other way round.
  bool wants_write() const { return wants_write_; }
  // Whether it ended because the other side broke TLS.
  bool broken() const { return broken_; }
  SSL* ssl() const { return ssl_.get(); }

  // Bytes read, 0 if none are there now, -1 at the end.
  ssize_t receive(uint8_t* to, size_t most) {
    if (!ssl_) return outcome(recv(descriptor_, to, most, 0), true);
    size_t count = 0;
    forget_errors();
    int done = SSL_read_ex(ssl_.get(), to, most, &count);
    return tls_outcome(done, count);
  }

  // Bytes written, 0 if none can be now, -1 if the connection is lost.
  ssize_t send(const uint8_t* from, size_t size) {
    if (!ssl_) return outcome(::send(descriptor_, from, size, MSG_NOSIGNAL), false);
    size_t count = 0;
    forget_errors();
    int done = SSL_write_ex(ssl_.get(), from, size, &count);
    return tls_outcome(done, count);
  }

  // Tells the other side that nothing follows; again when the socket can be written to, if it has no room now.
  // False if the connection is lost.
  bool end_writing() {
    if (ended_) return true;
    wants_write_ = false;
    if (ssl_ && SSL_is_init_finished(ssl_.get())) {
      forget_errors();
      int done = SSL_shutdown(ssl_.get());
      if (done < 0) {
        wants_write_ = SSL_get_error(ssl_.get(), done) == SSL_ERROR_WANT_WRITE;
        return wants_write_;
      }
    }
    ended_ = true;
    return shutdown(descriptor_, SHUT_WR) == 0;
  }

  // As `receive`, for bytes that nobody needs: they stay encrypted.
  ssize_t discard(uint8_t* to, size_t most) {
    ssize_t count = recv(descriptor_, to, most, 0);
    if (count > 0) return count;
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : -1;
  }

 private:
  static void forget_errors();

  ssize_t outcome(ssize_t count, bool reading) {
    wants_write_ = false;
    if (count > 0) return count;
    if (count == 0) return reading ? -1 : 0;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
      wants_write_ = !reading;
      return 0;
    }
    return -1;
  }

  ssize_t tls_outcome(int done, size_t count) {
    wants_write_ = false;
    if (done == 1) return static_cast<ssize_t>(count);
    switch (SSL_get_error(ssl_.get(), done)) {
      case SSL_ERROR_WANT_READ:
        return 0;
      case SSL_ERROR_WANT_WRITE:
        wants_write_ = true;
        return 0;
      case SSL_ERROR_SSL:
        broken_ = true;
        return -1;
      default:
        return -1;
    }
  }

  int descriptor_;
  Tls tls_;
  std::unique_ptr<SSL, SslFree> ssl_;
  bool wants_write_ = false;
  bool broken_ = false;
  bool ended_ = false;  // nothing more is written
};

}  // namespace native
