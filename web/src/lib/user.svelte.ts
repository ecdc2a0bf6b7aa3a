// Who is logged in, and what they may do.

import { api, Problem, whenUnauthorised } from './api';
import type { Me } from './types';

const RANK = { viewer: 0, analyst: 1, admin: 2 } as const;

class User {
  me = $state<Me | null>(null);
  /** Whether the server was asked yet. */
  known = $state(false);
  problem = $state<Problem | null>(null);

  constructor() {
    whenUnauthorised(() => (this.me = null));
  }

  async ask(): Promise<void> {
    this.problem = null;
    try {
      this.me = await api.me();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status !== 401) this.problem = error;
    }
    this.known = true;
  }

  may(role: keyof typeof RANK): boolean {
    return this.me !== null && RANK[this.me.role] >= RANK[role];
  }

  async logout(): Promise<void> {
    await api.logout();
    this.me = null;
  }
}

export const user = new User();
